"""`FileSchemeStore`: files are written whole, and unusable files are ignored."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trioanytls import FileSchemeStore, PaddingScheme
from trioanytls._protocol.legacy.scheme import parse_scheme

DEFAULT = PaddingScheme.DEFAULT
OTHER = PaddingScheme.parse(b"stop=2\n0=10-10\n1=300-400\n")
KEY = "server.example:443"


@pytest.fixture
def store(tmp_path: Path) -> FileSchemeStore:
    return FileSchemeStore(tmp_path / "schemes")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.name for record in records} <= {"trioanytls.client"}
    return [record.getMessage() for record in records]


# Files


def test_what_is_saved_is_loaded(store: FileSchemeStore) -> None:
    assert store.load(KEY) is None
    assert not store.directory.exists()
    for scheme in (OTHER, DEFAULT):
        store.save(KEY, scheme)
        assert store.load(KEY) == scheme
        assert FileSchemeStore(str(store.directory)).load(KEY) == scheme
    assert store.load("another.example:443") is None
    assert [path.name for path in store.directory.iterdir()] == ["server.example%3A443.scheme"]
    assert repr(store) == f"FileSchemeStore({str(store.directory)!r})"


def test_what_is_saved_is_for_the_owner_only(store: FileSchemeStore) -> None:
    store.save(KEY, OTHER)
    assert store.path(KEY).stat().st_mode & 0o077 == 0


ODD_KEYS = [
    "",
    ".",
    "..",
    "/",
    "../../etc/passwd",
    "a/b:443",
    "[::1]:443",
    "fe80::1%eth0:443",
    "bücher.example:443",
    "nul\0:443",
    "a b:443",
    "A:443",
    "con:443",
    "x" * 253 + ":443",
    "x" * 253 + ":444",
    "ü" * 253 + ":443",
    "x" * 10_000,
]


def test_whatever_a_server_is_called_it_has_a_file_of_its_own(store: FileSchemeStore) -> None:
    schemes = {key: PaddingScheme.parse(f"stop={number}\n".encode()) for number, key in enumerate(ODD_KEYS)}
    for key, scheme in schemes.items():
        store.save(key, scheme)
    assert {key: store.load(key) for key in ODD_KEYS} == schemes
    files = list(store.directory.parent.rglob("*"))
    assert {path.parent for path in files} == {store.directory, store.directory.parent}
    assert len(files) == len(ODD_KEYS) + 1


# Legacy schemes: of any form that the programs in the field read, and with the digest of their exact text.
LEGACY_SCHEMES = [
    b"stop=2\n0=30-30\n1=100-400",
    b"stop=2\n0=30-30\n1=100-400\n",
    b"stop=2\n\n0=30,4-4\r\n2=30,x\n1=400-100,c,,7\n1=9-9\nname=value\n\n\n",
    b"stop=2",
]


@pytest.mark.parametrize("text", LEGACY_SCHEMES)
def test_the_scheme_of_a_legacy_server_is_kept_byte_by_byte(store: FileSchemeStore, text: bytes) -> None:
    store.save(f"{KEY}/legacy", parse_scheme(text))
    loaded = store.load(f"{KEY}/legacy")
    assert loaded is not None
    assert loaded.text == text
    assert loaded.digest == hashlib.md5(text).hexdigest()
    assert loaded.lines == parse_scheme(text).lines
    # The two formats have no scheme in common.
    assert store.load(KEY) is None


def test_a_file_that_is_no_legacy_scheme_is_reported_and_ignored(
    store: FileSchemeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(f"{KEY}/legacy", OTHER)
    store.path(f"{KEY}/legacy").write_bytes(b"stop=many\n")
    assert store.load(f"{KEY}/legacy") is None
    (warning,) = warnings_of(caplog)
    assert warning.endswith("invalid stop 'many': expected an integer from 0 to 1073741824")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"stop=2",
        b"stop=x\n",
        b"stop=2\n1=1-2-3\n",
        b"\xff\xfe",
        bytes(1000),
        b"stop=2\n" * 2,
        b"stop=2\n" + bytes(200_000),
    ],
)
def test_a_file_that_is_no_scheme_is_reported_and_ignored(
    store: FileSchemeStore, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    store.save(KEY, OTHER)
    store.path(KEY).write_bytes(content)
    loaded = store.load(KEY)
    if content == b"stop=2":
        # The last line feed may be missing.
        assert (loaded, warnings_of(caplog)) == (PaddingScheme.parse(b"stop=2\n"), [])
        return
    assert loaded is None
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"ignoring the padding scheme in {store.path(KEY)}: ")
    assert len(warning) < 1000
    # The next `save` replaces the file.
    store.save(KEY, OTHER)
    assert store.load(KEY) == OTHER


def test_what_cannot_be_read_is_reported_and_ignored(
    store: FileSchemeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A directory in the file's place, as permissions do not stop root from reading.
    store.path(KEY).mkdir(parents=True)
    assert store.load(KEY) is None
    (tmp_path / "file").write_text("no directory")
    assert FileSchemeStore(tmp_path / "file").load(KEY) is None
    assert [": [Errno" in warning for warning in warnings_of(caplog)] == [True, True]
    with pytest.raises(OSError, match="file"):
        FileSchemeStore(tmp_path / "file").save(KEY, OTHER)


def test_a_write_that_fails_leaves_what_was_there(store: FileSchemeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(KEY, OTHER)

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        store.save(KEY, DEFAULT)
    assert store.load(KEY) == OTHER
    assert len(list(store.directory.iterdir())) == 1


CRASH = """
import os, signal, sys
import trioanytls
os.{where} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
trioanytls.FileSchemeStore(sys.argv[1]).save(sys.argv[2], trioanytls.PaddingScheme.DEFAULT)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("where", ["fdopen", "fsync", "replace"])
def test_a_crash_in_the_middle_leaves_what_was_there(store: FileSchemeStore, where: str) -> None:
    store.save(KEY, OTHER)
    command = [sys.executable, "-c", CRASH.format(where=where), str(store.directory), KEY]
    # `Path.replace` calls `os.replace`.
    crashed = subprocess.run(command, check=False, timeout=60)
    assert crashed.returncode == -signal.SIGKILL
    assert store.load(KEY) == OTHER
    assert len(list(store.directory.iterdir())) == 2
    store.save(KEY, DEFAULT)
    assert store.load(KEY) == DEFAULT
