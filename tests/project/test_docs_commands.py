"""docs/commands.md and the manual page are the output of docs/_generate_commands.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = DOCS / "_generate_commands.py"
    spec = importlib.util.spec_from_file_location("generate_commands", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(generator: ModuleType) -> None:
    generated = generator.to_markdown(generator.describe())
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == generated, "run docs/_generate_commands.py"


def test_manual_page_is_up_to_date(generator: ModuleType) -> None:
    generated = generator.to_manual(generator.describe())
    assert (DOCS / "man" / "trioanytls.1").read_text(encoding="utf-8") == generated, "run docs/_generate_commands.py"


def test_both_contain_each_command_and_option(generator: ModuleType) -> None:
    from trioanytls.cli import main

    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    manual = (DOCS / "man" / "trioanytls.1").read_text(encoding="utf-8").replace("\\-", "-")

    def look(command: click.Command, path: str) -> None:
        assert f"\n## {path}\n" in page
        for name in (name for one in command.params for name in one.opts if name.startswith("--")):
            assert name in page.split(f"\n## {path}\n")[1].split("\n## ")[0]
            assert name in manual or path == "trioanytls"
        for name, one in getattr(command, "commands", {}).items():
            look(one, f"{path} {name}")

    look(main.trioanytls, "trioanytls")
