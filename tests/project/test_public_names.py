"""The public names: where they seem to come from, and that all that stands in a public signature is public."""

from __future__ import annotations

import ast
import builtins
import inspect
import pickle
import subprocess
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType

import attrs
import pytest

import trioanytls
import trioanytls.destination
import trioanytls.metrics
import trioanytls.testing
from trioanytls._public import DEFINED_IN

from ..helpers.unmeasured import unmeasured

MODULES: tuple[ModuleType, ...] = (
    trioanytls,
    trioanytls.destination,
    trioanytls.metrics,
    trioanytls.testing,
)
PUBLIC: dict[str, object] = {name: getattr(module, name) for module in MODULES for name in module.__all__}

#: Names in signatures that no application writes, and why.
INTERNAL = {
    ("Client", "__init__"): "made by `open_client`",
    ("Connection", "__init__"): "made by `open_connection` and `serve`",
    ("FallbackStream", "__init__"): "made by the server",
    ("Stream", "__init__"): "made by a connection",
    ("HalfClosedCopies", "add"): "called by `copy_both_ways`",
    ("HalfClosedCopies", "discard"): "called by `copy_both_ways`",
    ("Config", "limits"): "read by the protocol",
    ("Delivery", "__init__"): "made by the shaper",
    ("ServerStats", "__init__"): "made by the server, from a generic base class",
}


def functions(one: object) -> Iterator[tuple[str, object]]:
    if not inspect.isclass(one):
        yield "", one
        return
    for name, member in vars(one).items():
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        yield name, member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def private_names(public: str, one: object) -> Iterator[str]:
    """Find the names in annotations that belong to this package, or are aliases of it, and are not public."""
    for method, function in functions(one):
        unwrapped = inspect.unwrap(function) if callable(function) else function
        if not inspect.isfunction(unwrapped) or (public, method) in INTERNAL:
            continue
        for annotation in unwrapped.__annotations__.values():
            for node in ast.walk(ast.parse(str(annotation), mode="eval")):
                if not isinstance(node, ast.Name) or node.id in PUBLIC or hasattr(builtins, node.id):
                    continue
                value = unwrapped.__globals__.get(node.id)
                module = getattr(value, "__module__", None) or ""
                ours = module.partition(".")[0] == "trioanytls"
                is_alias = not inspect.isclass(value) and not inspect.ismodule(value) and module not in ("typing", "")
                if ours or (is_alias and not hasattr(sys.modules.get(module), node.id)):
                    yield f"{public}.{method}: {node.id}"


def test_all_names_of_public_signatures_are_public() -> None:
    found = [text for name, one in PUBLIC.items() for text in private_names(name, one)]
    assert found == []


def test_public_attributes_have_public_types() -> None:
    found = [
        f"{name}.{field.name}: {node.id}"
        for name, one in PUBLIC.items()
        if inspect.isclass(one) and attrs.has(one)
        for field in attrs.fields(one)
        if not field.name.startswith("_") and isinstance(field.type, str)
        for node in ast.walk(ast.parse(field.type, mode="eval"))
        if isinstance(node, ast.Name) and node.id.startswith("_") and (name, "__init__") not in INTERNAL
    ]
    assert found == []


@pytest.mark.parametrize("name", sorted(name for name in trioanytls.__all__ if name != "__version__"))
def test_a_class_or_function_shows_its_public_name(name: str) -> None:
    one = getattr(trioanytls, name)
    if inspect.isclass(one) or inspect.isfunction(one):
        assert one.__module__ == "trioanytls"
        assert DEFINED_IN[f"trioanytls.{name}"].startswith("trioanytls._")
        assert pickle.loads(pickle.dumps(one)) is one


def test_a_traceback_shows_the_public_name_of_an_error() -> None:
    error = trioanytls.ConnectionClosed(trioanytls.CloseCode.NO_ERROR, "it was closed")
    [line] = traceback.format_exception_only(error)
    assert line.startswith("trioanytls.ConnectionClosed: it was closed")


def test_dir_lists_what_is_imported_on_first_use() -> None:
    program = "import sys, trioanytls; names = dir(trioanytls); print('pickle' in sys.modules, *names)"
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=unmeasured(), capture_output=True, check=True, text=True).stdout.split()
    assert output[0] == "False"
    assert set(trioanytls.__all__) <= set(output[1:])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trioanytls' has no attribute 'connect'"):
        trioanytls.connect  # noqa: B018 - the attribute is what is tested
