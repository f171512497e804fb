"""Type checks of public arguments: a wrong type is a `TypeError` at the call, not an `AttributeError` somewhere below.

No error shows the value itself, which may be a password.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def check_type(name: str, value: object, *expected: type, optional: bool = False) -> None:
    """Check that an argument is an instance of one of the `expected` types, or None if it is `optional`.

    A `bool` is not an `int` here: `port=True` is a mistake.

    Raises:
      TypeError: the argument has another type.
    """
    if value is None and optional:
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        names = [one.__name__ for one in expected] + ["None"] * optional
        raise TypeError(f"{name} must be {' or '.join(names)}, not {type(value).__name__}")


def check_callable(name: str, value: object, *, optional: bool = False) -> None:
    """Check that an argument can be called, or is None if it is `optional`.

    Raises:
      TypeError: the argument cannot be called.
    """
    if not (callable(value) or (value is None and optional)):
        raise TypeError(f"{name} must be callable{' or None' * optional}, not {type(value).__name__}")


def check_methods(name: str, value: object, *methods: str, optional: bool = False) -> None:
    """Check that an argument has these methods, or is None if it is `optional`. For arguments typed by a `Protocol`.

    Raises:
      TypeError: a method is missing, or the argument is a class instead of an instance.
    """
    if value is None and optional:
        return
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing or isinstance(value, type):
        kind = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be an object with {' and '.join(methods)}, not {kind}")


def check_strings(name: str, value: object, *, optional: bool = False) -> None:
    """Check that an argument is an iterable of `str` and not itself a `str`, or is None if it is `optional`.

    The argument is iterated: it must not be an iterator.

    Raises:
      TypeError: the argument or one of its items has another type.
    """
    if value is None and optional:
        return
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of str{' or None' * optional}, not {type(value).__name__}")
    for item in value:
        check_type(f"each of {name}", item, str)


def check_users(users: object) -> None:
    """Check that an argument is a mapping from names to passwords.

    Raises:
      TypeError: the argument, a name, or a password has another type.
    """
    check_type("users", users, Mapping)
    assert isinstance(users, Mapping)  # noqa: S101 - checked above; for the type checker
    for name, password in users.items():
        check_type("each name of users", name, str)
        check_type("each password of users", password, str)


def check_port(port: object, *, minimum: int = 1) -> None:
    """Check that an argument is a TCP port. To listen on, 0 is valid, too: `minimum=0`.

    Raises:
      TypeError: the argument is not an `int`.
      ValueError: the argument is out of range.
    """
    check_type("port", port, int)
    assert isinstance(port, int)  # noqa: S101 - checked above; for the type checker
    if not minimum <= port <= 65535:
        raise ValueError(f"invalid port {port}: must be between {minimum} and 65535")
