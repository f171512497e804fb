"""The root of the command line's own errors."""

from __future__ import annotations


class UserError(Exception):
    """What whoever runs the command has to see to: the text is one line, and says what is wrong and what to do."""
