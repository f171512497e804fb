"""The command line's own errors."""

from __future__ import annotations

from trioanytls import AnyTLSError


class UserError(Exception):
    """What whoever runs the command has to see to: the text is one line, and says what is wrong and what to do."""


class ClientError(AnyTLSError):
    """A command cannot do what it is for; the text says what to do about it."""
