"""The command line's own errors."""

from __future__ import annotations

from typing import ClassVar

import click

from trioanytls import AnyTLSError

from .exit_codes import ExitCode


class UserError(click.ClickException):
    """An error that the user can fix. The message is one line that says what is wrong and what to do."""

    exit_code: ClassVar[int] = ExitCode.FAILURE


class InvalidSettings(UserError):
    """The options or the configuration file are invalid: starting the command again does not help."""

    exit_code: ClassVar[int] = ExitCode.INVALID


class ClientError(AnyTLSError):
    """The client cannot do its work. The message says what to do about it."""
