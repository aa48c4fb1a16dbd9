"""Django looks here for commands, once ``canary_middleware`` stands in INSTALLED_APPS."""
