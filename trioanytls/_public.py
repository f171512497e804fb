"""Public names: what a traceback, a `repr` and `pickle` call the classes and functions of a package."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Final

#: The module that defines a public object, by the name that it has for users ("trioanytls.Config").
DEFINED_IN: Final[dict[str, str]] = {}


def publish(package: str, namespace: Mapping[str, object], names: Iterable[str]) -> None:
    """Give the classes and functions in `names` the package as their `__module__`, as Trio and httpcore do.

    A traceback then shows `trioanytls.ConnectionClosed`, which a user can look up and import, and not the private
    module, which may change. Other objects, such as type aliases, and objects of other packages remain as they are.
    """
    for name in names:
        value = namespace.get(name)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        module = value.__module__
        if module != package and module.partition(".")[0] == package.partition(".")[0]:
            DEFINED_IN[f"{package}.{name}"] = module
            value.__module__ = package
