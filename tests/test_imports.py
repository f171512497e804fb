"""The order of the house: imports point upward only, and the upper half knows no loop, no TLS and no clock."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import trioanytls

PACKAGE = Path(trioanytls.__file__).parent

# No I/O, and no question what time it is.
UPPER = [
    "_version",
    "_varint",
    "_frames",
    "_text",
    "_errors",
    "_pin",
    "_hosts",
    "_uri",
    "_datablock",
    "_padding",
    "_limits",
    "_shaper",
    "_users",
    "_decoder",
    "_state",
    "_stream_ids",
    "_protocol",
    "_rate",
    "_admission",
    "_proxy_protocol",
    "destination",
]
# What waits.
LOWER = [
    "_broken",
    "_addresses",
    "_config",
    "_ending",
    "_outbox",
    "_writer",
    "_receive_buffer",
    "_stream",
    "_tls",
    "_logs",
    "_fallback",
    "_service",
    "_reader",
    "_timekeeper",
    "_stats",
    "_connection",
    "_nursery",
    "_client",
    "_events",
    "_scheme_store",
    "_pool",
    "_control",
    "_listeners",
    "_server",
    "_channel",
    "_worker",
    "_worker_process",
    "_workers",
    "metrics",
    "testing",
]
# The public names, and what is built on them.
TOP = ["__init__", "contrib", "cli", "__main__"]
ORDER = [*UPPER, *LOWER, *TOP]

FORBIDDEN = {"trio", "ssl", "time", "datetime", "asyncio", "socket", "select", "selectors", "threading", "sched"}


def statements(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, those in functions too; but not those that only a type checker sees."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from statements(node.orelse)
        else:
            yield from statements(ast.iter_child_nodes(node))


def imports(source: str) -> set[str]:
    """What the module imports: full names, and relative ones with their dots."""
    names = set()
    for node in statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif node.module is None:
            names |= {f"{'.' * node.level}{alias.name}" for alias in node.names}
        else:
            names.add(f"{'.' * node.level}{node.module}")
    return names


def modules_of_the_package(source: str) -> set[str]:
    """Which parts of the package the module imports."""
    parts = set()
    for name in imports(source):
        if name.startswith("."):
            parts.add(name.lstrip(".").split(".")[0])
        elif name.split(".")[0] == "trioanytls":
            below = name.split(".")[1:]
            # What is no module is one of the public names.
            parts.add(below[0] if below and below[0] in ORDER else "__init__")
    return parts


def sources(module: str) -> list[Path]:
    return sorted((PACKAGE / module).rglob("*.py")) if (PACKAGE / module).is_dir() else [PACKAGE / f"{module}.py"]


def test_the_reader_of_imports_sees_what_it_has_to() -> None:
    source = """
from __future__ import annotations
import ssl, os.path
from trio import abc
from . import _varint
from ._frames import FrameType
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from ._connection import Connection
else:
    from ._users import Users
def function():
    import time
    from trioanytls import Stream
    from trioanytls.testing import echo
    import trioanytls._server
"""
    assert imports(source) == {
        "__future__.annotations",
        "ssl",
        "os.path",
        "trio.abc",
        "._varint",
        "._frames",
        "typing.TYPE_CHECKING",
        "._users",
        "time",
        "trioanytls.Stream",
        "trioanytls.testing.echo",
        "trioanytls._server",
    }
    assert modules_of_the_package(source) == {"_varint", "_frames", "_users", "__init__", "testing", "_server"}


def test_every_module_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found <= set(ORDER), "a new module needs its place in the order of this test"
    assert set(UPPER + LOWER) <= found


@pytest.mark.parametrize("module", [*UPPER, *LOWER])
def test_imports_point_upward_only(module: str) -> None:
    above = set(ORDER[: ORDER.index(module)])
    for path in sources(module):
        assert modules_of_the_package(path.read_text(encoding="utf-8")) <= above


def test_the_command_line_uses_the_public_names_only() -> None:
    for path in sources("cli"):
        for name in imports(path.read_text(encoding="utf-8")):
            depth = len(path.parent.relative_to(PACKAGE).parts)
            if name.startswith("."):
                # Not out of its own package.
                assert len(name) - len(name.lstrip(".")) <= depth, (path.name, name)
            elif name.split(".")[0] == "trioanytls":
                parts = name.split(".")[1:]
                public = not any(part.startswith("_") and part != "__version__" for part in parts)
                assert public or parts[:1] == ["cli"], (path.name, name)


@pytest.mark.parametrize("module", UPPER)
def test_the_upper_half_imports_no_loop_no_tls_and_no_clock(module: str) -> None:
    for path in sources(module):
        roots = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
        assert not roots & FORBIDDEN


# The package's own __init__ imports Trio: it is replaced by an empty module of the same name, which finds the same
# submodules.
IMPORT_ALONE = """
import importlib, sys, types
package = types.ModuleType("trioanytls")
package.__path__ = [sys.argv[1]]
sys.modules["trioanytls"] = package
importlib.import_module("trioanytls." + sys.argv[2])
print(*(name for name in sys.modules if name in ("trio", "ssl", "asyncio") or name.split(".")[0] == "trioanytls"))
"""


def loaded_by(module: str) -> set[str]:
    """What is in `sys.modules` of an interpreter that has imported this module only."""
    command = [sys.executable, "-c", IMPORT_ALONE, str(PACKAGE), module]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())


@pytest.mark.parametrize("module", UPPER)
def test_the_upper_half_runs_without_trio_and_tls(module: str) -> None:
    loaded = loaded_by(module)
    assert f"trioanytls.{module}" in loaded
    assert not loaded & {"trio", "ssl", "asyncio"}
    assert loaded <= {"trioanytls", *(f"trioanytls.{name}" for name in UPPER)}


def test_the_lower_half_would_be_seen() -> None:
    assert {"trio", "ssl", "trioanytls._tls"} <= loaded_by("_tls")
