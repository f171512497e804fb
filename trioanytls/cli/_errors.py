"""The command line's own errors."""

from __future__ import annotations

from typing import Any, cast

from trioanytls import AnyTLSError


class Restorable(Exception):
    """An error that is pickled and copied with its attributes, whatever arguments its `__init__` takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        kind, args, *state = cast("tuple[Any, ...]", super().__reduce__())
        return _restore, (kind, args), *state


def _restore(kind: type[Restorable], args: tuple[Any, ...]) -> Restorable:
    # Not by `__init__`: `args` is what that has made of its own arguments.
    return kind.__new__(kind, *args)


class UserError(Exception):
    """What whoever runs the command has to see to: the text is one line, and says what is wrong and what to do."""


class Failed(AnyTLSError):
    """A command cannot do what it is for; the text says what to do about it."""
