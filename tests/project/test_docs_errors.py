"""docs/errors.md has every public exception of the package, with its bases and attributes."""

from __future__ import annotations

import re

import trioanytls
from trioanytls import destination, relay

from .test_docs import DOCS

PAGE = (DOCS / "errors.md").read_text(encoding="utf-8")


def public_exceptions() -> dict[str, type[BaseException]]:
    """Return the public exceptions by the names that the page gives them."""
    found: dict[str, type[BaseException]] = {}
    for prefix, module in (("", trioanytls), ("destination.", destination), ("relay.", relay)):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, BaseException):
                found[prefix + name] = value
    return found


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def table(heading: str) -> list[list[str]]:
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_tree_is_that_of_the_package() -> None:
    exceptions = public_exceptions()
    parents: list[str] = []
    shown: dict[str, set[str]] = {}
    for line in section("The tree").split("```text\n")[1].split("```")[0].splitlines():
        matched = re.fullmatch(r"([│├└─ ]*)([\w.]+)(?: \((.*)\))?", line)
        assert matched is not None, line
        indent, name, others = matched.groups()
        parents[len(indent) // 4 :] = [name]
        shown[name] = {*parents[-2:-1], *(others or "").split(", ")} - {""}
    assert shown == {name: {base_name(base) for base in one.__bases__} for name, one in exceptions.items()}


def base_name(base: type) -> str:
    if base.__module__.startswith("trioanytls"):
        return base.__name__
    return base.__name__ if base.__module__ == "builtins" else f"trio.{base.__name__}"


def test_each_exception_is_described() -> None:
    described = [row[0].strip("`") for row in table("When each is raised")]
    assert sorted(described) == sorted(set(public_exceptions()) - {"AnyTLSError"})


def test_the_attributes_are_those_of_the_classes() -> None:
    exceptions = public_exceptions()
    documented = {name for row in table("Attributes") for name in re.findall(r"`(\w+\.\w+)`", row[0])}
    listed = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table("When each is raised")}
    for name, attributes in listed.items():
        assert attributes == attributes_of(exceptions[name]), name
        for attribute in attributes:
            assert any(f"{one.__name__}.{attribute}" in documented for one in exceptions[name].__mro__), name


def attributes_of(exception: type[BaseException]) -> set[str]:
    """Return the public attributes that the package gives to the class."""
    arguments: dict[type[BaseException], tuple[object, ...]] = {
        trioanytls.ConnectionClosed: (None, "reason"),
        trioanytls.DataBlockError: (1, "rule"),
        trioanytls.SideBroken: ("near", OSError()),
        relay.Unreachable: (relay.ReplyCode.GENERAL_FAILURE,),
    }
    error = exception(*arguments.get(exception, ("text",)))
    names = set(vars(error))
    for one in exception.__mro__:
        if one.__module__.startswith("trioanytls"):
            names |= {name for name in vars(one) if not callable(getattr(one, name))}
    return {name for name in names if not name.startswith("_")}


def test_all_have_a_common_base() -> None:
    assert [name for name, one in public_exceptions().items() if not issubclass(one, trioanytls.AnyTLSError)] == []
