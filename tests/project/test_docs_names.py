"""The code of the manual compiles, and the names that the manual uses exist."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trioanytls

from .test_docs import DOCS

PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_compiles_and_its_names_exist(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        tree = compile(code, str(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(tree, ast.Module)
        for name in attributes(tree):
            resolve(name)


def attributes(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trioanytls":
            yield f"trioanytls.{node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_names_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\{py:\w+\}`(trioanytls[\w.]*)`", text):
        resolve(name)
    settings = r"`((?:Config|PoolConfig|ServerStats|ClientStats|Connection|Client|Stream)\.\w+)\b(?!\.)"
    for name in re.findall(settings, text):
        if not name.endswith("_"):  # the beginning of several names: `Config.max_scheme_...`
            resolve(f"trioanytls.{name}")


def resolve(name: str) -> object:
    """Return the object of a dotted name; fail if there is none."""
    parts = name.split(".")[1:]
    value: object = trioanytls
    for position, part in enumerate(parts):
        if isinstance(value, type) and part in getattr(value, "__annotations__", {}):
            return None
        try:
            value = getattr(value, part)
        except AttributeError:
            value = submodule(".".join(["trioanytls", *parts[: position + 1]]))
    return value


@functools.cache
def submodule(name: str) -> object:
    return importlib.import_module(name)
