"""The group of commands, their imports, and errors about missing extras."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trioanytls import __version__, cli
from trioanytls.cli import main


def invoke(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main.trioanytls, [str(argument) for argument in arguments], input=stdin)


def run_without(packages: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m trioanytls` in a process that cannot import these packages."""
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({packages}))
sys.argv[1:] = {list(arguments)}
runpy.run_module("trioanytls", run_name="__main__", alter_sys=True)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0, result.output
    assert result.output == f"trioanytls {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["demo", "--help"], ["scheme", "show", "-h"]])
def test_help(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("Usage: trioanytls")


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "trioanytls", "--version"], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, f"trioanytls {__version__}\n", "")


@pytest.mark.parametrize("package", ["click", "rich", "cryptography", "segno"])
def test_without_the_extra_cli(package: str) -> None:
    result = run_without([package], "demo")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: the command line needs {package}; install it with: python3 -m pip install 'trioanytls[cli]'\n"
    )


def test_without_any_package_of_the_extra_cli() -> None:
    result = run_without(["click", "rich", "cryptography"], "--version")
    assert result.returncode == 2
    assert "needs click, rich, cryptography;" in result.stderr


#: The modules of other commands that a command may import.
SHARED = {
    "bench": {"client.connectivity_check"},
    "server": {"scheme.load"},
}


@pytest.mark.parametrize("package", ["bench", "client", "common", "demo", "scheme", "server"])
def test_imports_between_commands(package: str) -> None:
    found: set[str] = set()
    for path in Path(cli.__file__).parent.joinpath(package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trioanytls.cli."):
                found.add((node.module or "").removeprefix("trioanytls.cli."))
    assert {name for name in found if name.partition(".")[0] not in (package, "common")} == SHARED.get(package, set())


def test_help_imports_no_implementation() -> None:
    program = "import sys, trioanytls.cli.main; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert not {"rich", "cryptography", "segno", "matplotlib"} & set(result.stdout.split())
