"""The project's checks: CI, nox and pre-commit run the same ones, and an exemption from a check has a reason."""

from __future__ import annotations

import ast
import functools
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))


def sessions() -> dict[str, list[str]]:
    """Return the sessions of noxfile.py, and the commands of each that need no arguments of the user."""
    found = {}
    for node in NOXFILE.body:
        if isinstance(node, ast.FunctionDef) and any("session" in ast.dump(one) for one in node.decorator_list):
            found[node.name] = [
                " ".join(str(ast.literal_eval(one)) for one in call.args if isinstance(one, ast.Constant))
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "session.run"
            ]
    return found


def default_sessions() -> list[str]:
    """Return the sessions that `nox` runs if none is named."""
    [value] = [
        node.value
        for node in NOXFILE.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "nox.options.sessions"
    ]
    names = ast.literal_eval(value)
    assert isinstance(names, list)
    return names


def hooks() -> dict[str, str]:
    """Return the hooks of pre-commit, and the command of each."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"- id: (\S+)\n.*?\n +entry: (.*)\n", text))


def test_ci_runs_every_default_session_and_measures_coverage() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    # The README's command, as it is written there.
    [tests] = re.findall(r'^"\$python" -m nox -s (\w+) \|\|', script, re.MULTILINE)
    [others] = re.findall(r"^for session in (.*); do$", script, re.MULTILINE)
    names = [tests, *others.split()]
    assert names[0] == "tests"
    assert [name for name in names if name != "coverage"] == default_sessions()
    assert "coverage" in names
    assert set(names) <= set(sessions())


def test_hooks_run_sessions_of_ci() -> None:
    for name, command in hooks().items():
        assert command == f"python3 -m nox --reuse-venv=yes -s {name}"
        assert name in default_sessions()


def test_hooks_check_style_format_and_types() -> None:
    commands = [command for name in hooks() for command in sessions()[name]]
    assert {"ruff check", "ruff format --check", "mypy"} <= set(commands)


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pyright"])
def test_tools_whose_verdicts_change_have_a_fixed_version(tool: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    groups = text[text.index("[dependency-groups]") : text.index("[project.scripts]")]
    assert len(re.findall(rf'"{tool}(?:\[\w+\])?(?:~=\d+\.\d+\.\d+|==\d[\d.]*)"', groups)) == 1


@functools.cache
def comments() -> list[tuple[str, str]]:
    """Find the comments of all Python files, and the place of each. The environments of the benchmarks are not ours."""
    environments = ROOT / "benchmarks" / "output"
    found = []
    for directory in ("trioanytls", "tests", "benchmarks", "docs"):
        paths = (ROOT / directory).rglob("*.py")
        for path in sorted(path for path in paths if environments not in path.parents):
            with path.open("rb") as file:
                found += [
                    (f"{path.relative_to(ROOT)}:{token.start[0]}", token.string)
                    for token in tokenize.tokenize(file.readline)
                    if token.type == tokenize.COMMENT
                ]
    return found


@pytest.mark.parametrize("marker", [r"# pragma: no (?:cover|branch)"])
def test_an_exemption_has_a_reason(marker: str) -> None:
    found = [(place, comment) for place, comment in comments() if re.search(marker, comment)]
    without = [f"{place}: {comment}" for place, comment in found if not re.search(rf"{marker}[^-]* - \w.*", comment)]
    assert without == []


def test_exemptions_from_ruff_in_the_package_have_a_reason() -> None:
    found = [one for one in comments() if one[0].startswith("trioanytls/") and "noqa" in one[1]]
    assert [one for one in found if not re.search(r"# noqa: [A-Z0-9, ]+ - \w", one[1])] == []
    assert sum("SLF001" in comment for _, comment in found) <= 40
