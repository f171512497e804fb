"""The documentation names tests, public names and files that exist."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path

import trioanytls

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"
DOCS = ROOT / "docs"


def requirement_rows(chapter: str = "Requirements") -> list[list[str]]:
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    table = text.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_each_requirement_names_tests_that_exist() -> None:
    rows = requirement_rows()
    assert len(rows) >= 25
    for chapter, requirement, named in rows:
        assert chapter
        assert re.search("MUST|SHOULD", requirement)
        check_that_tests_exist(requirement, named)


def test_each_requirement_of_the_legacy_format_names_tests_that_exist() -> None:
    rows = requirement_rows("Legacy format")
    assert len(rows) >= 75
    for section, requirement, named in rows:
        assert re.fullmatch(r"\d+(, [A-Z][\w ]+)?", section)
        check_that_tests_exist(requirement, named)
    # Section 8 compares the programs, section 11 repeats.
    assert {int(section.split(",")[0]) for section, _, _ in rows} >= {1, 2, 3, 4, 6, 7, 9, 10}


def test_each_rule_of_the_extensions_names_tests_that_exist() -> None:
    rows = requirement_rows("Extensions")
    assert len(rows) >= 45
    for section, requirement, named in rows:
        assert re.fullmatch(r"\d(, Sizes)?|1 to 5", section)
        check_that_tests_exist(requirement, named)
    assert {int(section[0]) for section, _, _ in rows} == {1, 2, 3, 4, 5}
    # Those of the specification that are in capitals.
    assert sum(requirement.count("MUST") for _, requirement, _ in rows) == 3


def check_that_tests_exist(requirement: str, named: str) -> None:
    tests = re.findall(r"`(\w+)::(\w+)`", named)
    assert tests, f"no test is named for: {requirement}"
    assert len(tests) == named.count("`") // 2
    for module, test in tests:
        assert test.startswith("test_")
        assert test in names_in(module), f"{module}::{test} does not exist"


@functools.cache
def names_in(module: str) -> set[str]:
    # Modules of several packages may have the same name.
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob(f"{module}.py")]
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    names = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, functions)}
    assert names
    return names


def test_the_page_on_compatibility_names_tests_that_exist() -> None:
    text = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 10
    directories = [TESTS / name for name in ("interop", "integration")]
    sources = [path.read_text(encoding="utf-8") for directory in directories for path in directory.glob("test_*.py")]
    assert [name for name in named if not any(f"def {name}(" in source for source in sources)] == []


def test_each_public_name_is_documented() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    missing = [name for name in trioanytls.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_each_public_object_has_a_docstring() -> None:
    # A type alias has none: the page on the API describes it.
    objects = {name: getattr(trioanytls, name) for name in trioanytls.__all__}
    documented = {name: one for name, one in objects.items() if inspect.isclass(one) or inspect.isfunction(one)}
    assert len(documented) > 40
    for name, one in documented.items():
        assert one.__doc__, name


def test_the_page_on_the_design_names_files_and_packages_that_exist() -> None:
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    package = ROOT / "trioanytls"
    files = re.findall(r"`([\w/]+\.py)`", text)
    assert len(files) > 12
    for name in files:
        assert (package / name).is_file() or (ROOT / name).is_file(), name
    table = text.split("## Layers")[1].split("\n## ")[0]
    named = {
        name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)", row.split("|")[1])
    }
    assert {path.parent.name for path in package.glob("*/__init__.py")} <= named


def test_the_tree_of_the_design_is_that_of_the_package() -> None:
    tree = (DOCS / "design.md").read_text(encoding="utf-8").split("```text\ntrioanytls/\n")[1].split("```")[0]
    named = set(re.findall(r"^[├└]── (\w+(?:\.py|/))", tree, re.MULTILINE))
    package = ROOT / "trioanytls"
    modules = {path.name for path in package.glob("*.py")} - {"__main__.py", "_version.py"}
    assert named == modules | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
