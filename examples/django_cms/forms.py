"""What comes in, checked once for both versions."""

from __future__ import annotations

from django import forms


class Registration(forms.Form):
    """A new member."""

    email = forms.EmailField()
    name = forms.CharField(max_length=80)
