"""The errors in a group."""

from __future__ import annotations


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, at any depth, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]
