"""The limit on open files, which the command line raises."""

from __future__ import annotations

import sys

import pytest

from trioanytls.cli.common import file_limit
from trioanytls.cli.common.file_limit import MAX_OPEN_FILES, raise_file_limit

resource = pytest.importorskip("resource", reason="this system has no such limits")
INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 4096, 4096),
        (1024, INFINITY, MAX_OPEN_FILES),
        (1024, 1_000_000, MAX_OPEN_FILES),
        (4096, 4096, None),
        (100_000, 1_000_000, None),
        (INFINITY, INFINITY, None),
    ],
)
def test_raise_the_soft_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int | None) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, limits: asked.append(limits))
    raise_file_limit()
    assert asked == ([] if expected is None else [(expected, hard)])


def test_system_that_rejects_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (10, 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()


def test_system_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    file_limit.raise_file_limit()
