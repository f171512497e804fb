"""What the relay's own errors have in common, and what groups of errors consist of."""

from __future__ import annotations

from typing import Any, cast


class Restorable(Exception):
    """An error that is pickled and copied with its attributes, whatever arguments its `__init__` takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        kind, args, *state = cast("tuple[Any, ...]", super().__reduce__())
        return _restore, (kind, args), *state


def _restore(kind: type[Restorable], args: tuple[Any, ...]) -> Restorable:
    # Not by `__init__`: `args` is what that has made of its own arguments.
    return kind.__new__(kind, *args)


def leaves(error: BaseException) -> list[BaseException]:
    """An exception, or those that a group of groups consists of."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
