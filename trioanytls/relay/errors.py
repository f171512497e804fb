"""A base class for errors, and the errors in a group."""

from __future__ import annotations

from typing import Any, cast


class Restorable(Exception):
    """An error that is pickled and copied with its attributes, independent of the arguments of its `__init__`."""

    def __reduce__(self) -> tuple[Any, ...]:
        kind, args, *state = cast("tuple[Any, ...]", super().__reduce__())
        return _restore, (kind, args), *state


def _restore(kind: type[Restorable], args: tuple[Any, ...]) -> Restorable:
    # Without `__init__`, whose arguments differ from `args`.
    return kind.__new__(kind, *args)


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, at any depth, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
