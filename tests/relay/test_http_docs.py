"""The pages on the HTTP proxy name existing cases and tests, and all of them."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase

from ..helpers.http_cases import CASES
from ..project.test_docs import DOCS, TESTS

NAMES = [case.name for case in CASES]


def rows(page: str, heading: str = "") -> list[list[str]]:
    """Return the rows of the tables after a heading, without their heads."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading:
        text = text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    found = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in text.splitlines()
        if line[:2] == "| "
    ]
    return [row for row in found if row[0] not in ("RFC", "tinyproxy")]


def matching(name: str) -> list[str]:
    """Return the cases, or tests of other modules, that a name in the documentation refers to."""
    module, colons, test = name.partition("::")
    if not colons:
        return [case for case in NAMES if fnmatchcase(case, name)]
    [path] = TESTS.rglob(f"{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [one for one in tests if fnmatchcase(one, test) and one.startswith("test_")]


def cases_of(cell: str) -> list[str]:
    """Return the cases that a cell of a table names."""
    return [case for name in re.findall(r"`([\w.*-]+)`", cell) for case in matching(name)]


def test_each_requirement_names_cases_that_exist() -> None:
    table = rows("http-proxy.md")
    assert len(table) > 100
    for section, requirement, shown in table:
        assert re.fullmatch(r"911[023], [\d.]+", section)
        names = re.findall(r"`([\w.:*-]+)`", shown)
        assert names or shown.startswith("Departure"), requirement
        for name in names:
            assert matching(name), f"{name} does not exist"


def test_each_case_shows_a_requirement() -> None:
    named = {case for row in rows("http-proxy.md") for case in cases_of(row[2])}
    assert sorted(set(NAMES) - named) == []


def test_each_difference_names_cases_that_exist() -> None:
    table = rows("relay.md", "### Compared with tinyproxy")
    assert len(table) > 10
    for theirs, ours, named in table:
        assert theirs
        assert ours
        names = re.findall(r"`([\w.*-]+)`", named)
        assert names
        for name in names:
            assert matching(name), f"{name} does not exist"
