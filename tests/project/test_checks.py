"""Type checks of arguments: what passes, and the text of the errors."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from trioanytls._checks import check_callable, check_methods, check_strings, check_type


class Base:
    def close(self) -> None:
        """Do nothing."""


class Derived(Base):
    pass


def test_the_right_types_pass() -> None:
    check_type("x", "text", str)
    check_type("x", 1, str, int)
    check_type("x", Derived(), Base)
    check_type("x", True, bool)
    check_type("x", None, str, optional=True)
    check_callable("x", print)
    check_callable("x", None, optional=True)
    check_methods("x", Derived(), "close")
    check_methods("x", None, "close", optional=True)
    check_strings("x", ["a", "b"])
    check_strings("x", ())
    check_strings("x", {"a"})
    check_strings("x", None, optional=True)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_type("port", "8443", int), "port must be int, not str"),
        (lambda: check_type("port", True, int), "port must be int, not bool"),
        (lambda: check_type("port", None, int), "port must be int, not NoneType"),
        (lambda: check_type("uri", b"secret", str, Base), "uri must be str or Base, not bytes"),
        (lambda: check_type("base", Base, Base), "base must be Base, not type"),
        (lambda: check_type("name", 1, str, optional=True), "name must be str or None, not int"),
        (lambda: check_callable("handler", "f"), "handler must be callable, not str"),
        (lambda: check_callable("handler", None), "handler must be callable, not NoneType"),
        (lambda: check_callable("fallback", 1, optional=True), "fallback must be callable or None, not int"),
        (lambda: check_methods("door", 1, "close"), "door must be an object with close, not int"),
        (
            lambda: check_methods("door", Base(), "open", "close"),
            "door must be an object with open and close, not Base",
        ),
        (lambda: check_methods("door", Base, "close"), "door must be an object with close, not the class Base"),
        (lambda: check_strings("pins", "secret"), "pins must be a sequence of str, not str"),
        (lambda: check_strings("pins", b"secret", optional=True), "pins must be a sequence of str or None, not bytes"),
        (lambda: check_strings("pins", 1), "pins must be a sequence of str, not int"),
        (lambda: check_strings("pins", ["a", b"secret"]), "each of pins must be str, not bytes"),
    ],
)
def test_a_wrong_type_is_named_and_the_value_is_not(check: Callable[[], None], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check()
