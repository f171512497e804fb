"""The messages in the tables on troubleshooting are messages of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .test_docs import DOCS, ROOT


def texts_of_the_code() -> str:
    """Return all texts of the package, each on a line, with `...` for values."""
    lines = []
    for path in (ROOT / "trioanytls").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                lines.append("".join(str(one.value) if isinstance(one, ast.Constant) else "..." for one in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(re.sub(r"%\.?\d?[a-z]", "...", node.value))
    return "\n".join(lines)


def messages(page: Path) -> list[str]:
    section = page.read_text(encoding="utf-8").split("\n## Troubleshooting\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("name", ["server.md", "relay.md"])
def test_each_message_is_one_of_the_code(name: str) -> None:
    code = texts_of_the_code()
    listed = messages(DOCS / name)
    assert len(listed) > 10
    assert [message for message in listed if not is_in(code, message)] == []


def is_in(code: str, message: str) -> bool:
    """Return whether a text of the code has the longest run of the message's words that are no example values."""
    runs = re.split(r"\.\.\.|\S*[\d/*_-]\S*|\w+:\w+|[;:?]", message)
    longest = max((run.strip() for run in runs), key=len)
    return longest in code
