"""The files and the pairs of the tests with sing-box."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from ._ends import PAIRS, Files, Pair, Running, running

ROOT = Path(__file__).parents[2]
# Its test waits for a program that runs while all other tests do.
LAST = "test_idle.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the test of silence last, in whatever order the others are."""
    items.sort(key=lambda item: item.path.name == LAST)


@pytest.fixture(scope="session", autouse=True)
def idle_program(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str] | None]:
    """Start the program at the beginning, if its test is among those that run."""
    if all(item.path.name != LAST for item in request.session.items):
        yield None
        return
    command = [sys.executable, "-m", "tests.interop.idle"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    return Files.make(tmp_path, authority)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]


@pytest.fixture
async def ends(pair: Pair, files: Files) -> AsyncIterator[Running]:
    """Both ends, which run."""
    async with running(pair, files) as both:
        yield both
