"""What can be run on this project: `python3 -m nox -l` lists it, `python3 -m nox` runs the usual part of it.

Arguments behind `--` are passed on to the session's program: `python3 -m nox -s tests -- -k padding`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typecheck", "typecheck_compat", "docs", "demo"]
nox.options.default_venv_backend = "virtualenv"
# A Python that is not there is skipped, also where the environment says CI, and never downloaded.
nox.options.error_on_missing_interpreters = False
if hasattr(nox.options, "download_python"):  # nox 2025.10 and later
    nox.options.download_python = "never"


def interpreter(version: str) -> str:
    """Name this Python so that nox skips it if the commands of that name do not run.

    A version manager may leave a `python3.12` on the path that only says that 3.12 is not active. Some versions of nox
    take it for an interpreter and fail; under a name that nothing has, they skip it.
    """
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [command for path in directories if (command := shutil.which(f"python{version}", path=path))]
    if found and not any(runs(command) for command in found):
        return f"{version}-not-installed"
    return version  # nox searches in more places than the path


def runs(command: str) -> bool:
    """Say whether this Python starts."""
    try:
        return subprocess.run([command, "-c", ""], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@nox.session(python=[interpreter(version) for version in PYTHONS])
def tests(session: nox.Session) -> None:
    """Run the tests against the package as it would be installed."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Upload the standard library over one connection and compare every digest."""
    session.install(".[cli]")
    session.run("python", "-m", "trioanytls", "demo", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the package with mypy's strict rules and Trio's own annotations."""
    session.install(".[cli,plot,httpcore,metrics]", *nox.project.dependency_groups(GROUPS, "typecheck"))
    session.run("mypy", *session.posargs)


@nox.session
def typecheck_compat(session: nox.Session) -> None:
    """Check a program of a trio-typing user against the installed package, then run it."""
    session.install(".[typing]")
    # In a directory of its own: beside the checkout, mypy would take the package's sources for a part of the program.
    source, directory = ROOT / "tests" / "typing_compat", session.create_tmp()
    for name in ("mypy.ini", "program.py"):
        shutil.copy(source / name, directory)
    session.chdir(directory)
    session.run("mypy", *session.posargs, "program.py")
    session.run("python", "program.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install(".[httpcore,metrics]", *nox.project.dependency_groups(GROUPS, "docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-b", "html", *session.posargs, "docs", "docs/_build/html")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Search for errors: property tests, the client's front ends, then atheris for ten minutes (`--seconds`)."""
    try:
        # There are wheels for some Pythons and systems only, and building it takes a compiler of its own.
        session.install("--only-binary=atheris", *nox.project.dependency_groups(GROUPS, "fuzz"))
    except CommandFailed:
        session.error("atheris could not be installed for this Python and system: nothing was fuzzed")
    session.install(".[dev]")
    # The first of these two says how many runs each machine of test_model makes; the other lets all others search, too.
    runs = {"TRIOANYTLS_MODEL_RUNS": os.environ.get("TRIOANYTLS_MODEL_RUNS", "10000")}
    properties = [
        f"tests/protocol/test_{name}.py"
        for name in ("model", "varint", "data_blocks", "padding_scheme", "frame_decoder", "protocol")
    ]
    # A run takes as long as it takes: no traces of one that goes on.
    session.run("pytest", "-o", "faulthandler_timeout=0", *properties, env={**runs, "TRIOANYTLS_HYPOTHESIS": "search"})
    session.run("python", "-m", "tests.fuzz.fuzz_fronts", "--exchanges", "10000")
    directory = session.create_tmp()
    session.run("python", "-m", "tests.fuzz.fuzz_protocol", "--directory", directory, *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Mutate a connection's modules, and list the mutants that no test notices; takes an hour or two."""
    session.install(".[dev]", *nox.project.dependency_groups(GROUPS, "mutate"))
    # The tests have to meet the mutants, which are not installed.
    session.run("pip", "uninstall", "-y", "trioanytls")
    # Behind `--`, names of mutants: "trioanytls._connection.send_queue.*". What was tested before is not tested again.
    session.run("mutmut", "run", "--max-children", "1", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; see benchmarks/ for the arguments."""
    session.install(".[cli,plot]", "-r", "benchmarks/requirements.txt")
    # What is installed here is not measured, and not counted against the time that the measurement has.
    session.run("python", "-m", "benchmarks", "--prepare")
    session.run("python", "-m", "benchmarks", *session.posargs)
