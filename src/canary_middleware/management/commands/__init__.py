"""The commands: ``manage.py canary``."""
