"""The import directions of the package: a table of its parts, and no circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trioanytls

from ..helpers.unmeasured import unmeasured

PACKAGE = Path(trioanytls.__file__).parent

LIBRARY = {"_checks", "_protocol", "_version", "_config", "_exceptions", "_transport", "_connection"}
# The public names: `trioanytls` itself, and its public modules.
PUBLIC = {"trioanytls", "destination", "files", "metrics", "testing"}
#: Each part of the package, in order, and the parts that it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "_version": set(),
    "_checks": set(),
    "files": set(),
    "_public": set(),
    "_protocol": {"_version"},
    "_config": {"_checks", "_protocol"},
    "_exceptions": {"_protocol"},
    "_transport": {"_checks", "_protocol", "_exceptions"},
    "_connection": LIBRARY,
    "_client": {*LIBRARY, "files"},
    "_server": LIBRARY,
    "_workers": {*LIBRARY, "_server"},
    "destination": {"_checks", "_protocol", "_transport"},
    "trioanytls": {*LIBRARY, "_public", "_client", "_server", "_workers"},
    "testing": {*LIBRARY, "_client", "_server"},
    "_metrics_endpoint": set(),
    "metrics": {*LIBRARY, "_server", "_metrics_endpoint"},
    "contrib": {"trioanytls", "destination"},
    "relay": {"trioanytls", "destination"},
    "cli": {*PUBLIC, "relay"},
    "__main__": {"cli"},
}
#: Of `_protocol`, the transport needs its errors alone.
ONLY = {("_transport", "_protocol"): {"_protocol.exceptions"}}
#: Those that exist for a type checker alone.
FOR_TYPES = {
    # At run time, it is imported on first use.
    ("trioanytls", "_workers.child"),
    ("trioanytls", "_workers.control"),
    ("trioanytls", "_workers.serve"),
    ("_connection.stream", "_connection.connection"),
}
FORBIDDEN = {"trio", "ssl", "time", "datetime", "asyncio", "socket", "select", "selectors", "threading", "sched"}

Edge = tuple[str, str]


def name_of(path: Path) -> str:
    """Return a module's name below `trioanytls`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "trioanytls"


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str, path: Path, *, for_types: bool) -> Iterator[str]:
    """Find the full names that a module imports, in functions too: those for a type checker alone, or the others."""
    package = name_of(path.parent / "__init__.py")

    def visit(node: ast.AST, seen_by_checker: bool) -> Iterator[str]:
        if isinstance(node, ast.Import) and seen_by_checker is for_types:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and seen_by_checker is for_types:
            base = node.module or ""
            if node.level:
                above = "" if package == "trioanytls" else f".{package}"
                base = f"trioanytls{above}".rsplit(".", node.level - 1)[0] + (f".{base}" if base else "")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.body:
                yield from visit(child, True)
            for child in node.orelse:
                yield from visit(child, seen_by_checker)
        else:
            for below in ast.iter_child_nodes(node):
                yield from visit(below, seen_by_checker)

    return visit(ast.parse(path.read_text(encoding="utf-8")), False)


def module_named(name: str) -> str | None:
    """Return the module of this package that an import names, None if it is of another package."""
    root, _, below = name.partition(".")
    if root != "trioanytls":
        return None
    while below and below not in MODULES:
        below = below.rpartition(".")[0]
    return below or "trioanytls"


def edges(*, for_types: bool) -> set[Edge]:
    found = {
        (module, imported)
        for module, path in MODULES.items()
        for name in imports(module, path, for_types=for_types)
        if (imported := module_named(name)) is not None
    }
    return {(module, imported) for module, imported in found if module != imported}


EDGES = edges(for_types=False)


def test_every_module_belongs_to_a_part_of_the_table() -> None:
    assert {part_of(module) for module in MODULES} == set(MAY_IMPORT)


def test_imports_have_the_direction_of_the_table() -> None:
    wrong = {
        (module, imported)
        for module, imported in EDGES
        if part_of(module) != part_of(imported) and part_of(imported) not in MAY_IMPORT[part_of(module)]
    }
    assert not wrong
    for (part, of), allowed in ONLY.items():
        found = {imported for module, imported in EDGES if part_of(module) == part and part_of(imported) == of}
        assert found <= allowed


def test_what_is_imported_for_a_type_checker_is_listed() -> None:
    assert edges(for_types=True) <= FOR_TYPES


def test_the_table_has_an_order() -> None:
    parts = list(MAY_IMPORT)
    for position, part in enumerate(parts):
        later = {one for one in MAY_IMPORT[part] if parts.index(one) >= position}
        # A set of several parts may contain the part itself.
        assert later <= {part, *({"metrics", "testing"} if part == "cli" else ())}, (part, later)


def test_no_module_imports_itself_by_way_of_others() -> None:
    below: dict[str, set[str]] = {}
    for module, imported in EDGES:
        below.setdefault(module, set()).add(imported)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for imported in below.get(module, ()):
                # A package's own __init__ runs before its modules, and imports none of them.
                visit(imported, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("part", ["relay", "cli", "contrib"])
def test_these_use_the_public_names_only(part: str) -> None:
    for module, path in MODULES.items():
        if part_of(module) == part:
            for name in imports(module, path, for_types=False):
                below = name.split(".")[1:] if name.startswith("trioanytls.") else []
                private = [one for one in below if one.startswith("_") and one != "__version__"]
                assert not private or below[0] == part, (module, name)


def test_the_protocol_imports_no_loop_no_tls_and_no_clock() -> None:
    for module, path in MODULES.items():
        if part_of(module) == "_protocol":
            assert not {name.partition(".")[0] for name in imports(module, path, for_types=False)} & FORBIDDEN, module


# The package's __init__ imports Trio, so an empty module of the same name and path replaces it.
IMPORT_ALONE = """
import importlib, sys, types
package = types.ModuleType("trioanytls")
package.__path__ = [sys.argv[1]]
sys.modules["trioanytls"] = package
for name in sys.argv[2:]:
    importlib.import_module("trioanytls." + name)
print(*sys.modules)
"""


def loaded_by(*modules: str) -> set[str]:
    """Return the names in `sys.modules` of an interpreter that has imported these modules only."""
    command = [sys.executable, "-c", IMPORT_ALONE, str(PACKAGE), *modules]
    done = subprocess.run(command, env=unmeasured(), check=True, capture_output=True, text=True, timeout=60)
    return set(done.stdout.split())


def test_the_protocol_runs_without_trio_and_tls() -> None:
    modules = [module for module in MODULES if part_of(module) == "_protocol"]
    loaded = loaded_by(*modules)
    assert {f"trioanytls.{module}" for module in modules} <= loaded
    assert not loaded & {"trio", "ssl", "asyncio"}
    assert {part_of(name.partition(".")[2]) for name in loaded if name.startswith("trioanytls.")} <= {
        "_protocol",
        "_version",
    }


def test_other_parts_would_be_seen() -> None:
    assert {"trio", "ssl", "trioanytls._transport.tls_stream"} <= loaded_by("_transport.tls_stream")


def test_few_modules_are_flat() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    assert len(list((PACKAGE / "cli").glob("*.py"))) <= 6


def test_several_processes_are_imported_when_they_are_asked_for() -> None:
    program = """
import sys, trioanytls
assert not {"multiprocessing", "pickle"} & set(sys.modules)
assert callable(trioanytls.serve_workers) and trioanytls.WorkersControl()
assert "multiprocessing" in sys.modules
try:
    trioanytls.serve_worker
except AttributeError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=unmeasured(), check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "module 'trioanytls' has no attribute 'serve_worker'\n"
