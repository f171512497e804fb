"""docs/operations.md lists the metrics and log lines of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from trioanytls import metrics

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

# Methods whose first argument is the text, and those whose second argument is.
FIRST = {"debug", "info", "warning", "error", "exception"}
SECOND = {"log", "say"}


def test_the_metrics_are_those_of_the_code() -> None:
    section = PAGE.split("\n## Metrics\n")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE))

    families = metrics._families(None)
    assert listed == {f"{one.name}{'_total' if one.type == 'counter' else ''}": one.type for one in families}


@pytest.mark.parametrize(
    "module",
    [
        "_server/server",
        "_connection/connection",
        "_server/fallback_service",
        "_workers/supervisor",
        "_workers/handle",
        "_workers/child",
        "_metrics_endpoint",
        "relay/handler",
        "relay/refusals",
        "relay/udp_relay",
        "cli/common/password_files",
        "cli/server/certificate_files",
        "cli/server/options",
        "cli/server/processes",
        "cli/server/run",
        "cli/server/signals",
    ],
)
def test_each_line_of_the_log_is_listed(module: str) -> None:
    section = PAGE.split("\n## Log\n")[1].split("\n## ")[0]
    found = list(texts(ROOT / "trioanytls" / f"{module}.py"))

    assert found
    assert [text for text in found if text not in section] == []


def texts(path: Path) -> Iterator[str]:
    """Yield the longest constant part of each logged text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            position = 0 if name in FIRST else 1 if name in SECOND else None
            if position is not None and len(node.args) > position:
                parts = list(constants(node.args[position]))
                if parts:
                    yield max(parts, key=len)


def constants(node: ast.expr) -> Iterator[str]:
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            # The text between the arguments.
            yield from (part.strip(" ;:()") for part in re.split(r"%[a-z%]|%\.\d[a-z]", value.value))
