"""`trioanytls.files`: a file is replaced as a whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trioanytls.files import replace_file


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_made_and_replaced(tmp_path: Path, kind: type) -> None:
    for data in (b"first", b"", bytes(100_000)):
        replace_file(kind(tmp_path / "name"), data)
        assert (tmp_path / "name").read_bytes() == data
    assert list(tmp_path.iterdir()) == [tmp_path / "name"]


def test_a_path_without_a_directory_is_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replace_file("name", b"data")
    assert (tmp_path / "name").read_bytes() == b"data"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    path.chmod(0o644)
    previous = os.umask(0)
    try:
        replace_file(path, b"new")
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_longest_name_fits(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    replace_file(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "name", b"data")


@pytest.mark.parametrize("function", ["fdopen", "fsync", "replace"])
def test_a_failure_leaves_the_previous_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "name"
    replace_file(path, b"previous")

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"next")
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


CRASH = """
import os, signal, sys
from trioanytls.files import replace_file
os.{function} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
replace_file(sys.argv[1], b"next")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_crash_leaves_the_previous_file_alone(tmp_path: Path, function: str) -> None:
    path = tmp_path / "name"
    replace_file(path, b"previous")
    command = [sys.executable, "-c", CRASH.format(function=function), str(path)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"previous"
