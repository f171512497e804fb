"""The state directory: its location, and the permissions of its files."""

import os
import stat
import sys
from pathlib import Path

import pytest

from trioanytls.cli.common.state_dir import StateDirectory, StateError, default_directory

posix = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX permissions")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
def test_permissions(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "some" / "where")
    assert state.read("name") is None
    old = os.umask(0)
    try:
        path = state.write("name", b"content")
    finally:
        os.umask(old)
    assert state.read("name") == b"content"
    assert (mode(state.path), mode(path)) == (0o700, 0o600)
    state.write("name", b"other")
    assert state.read("name") == b"other"
    # No temporary file remains.
    assert list(state.path.iterdir()) == [path]


@posix
def test_file_accessible_to_others(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("name", b"content").chmod(0o640)
    with pytest.raises(StateError, match=r"name is accessible to other users: delete it"):
        state.read("name")


@posix
def test_directory_writable_by_others(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("name", b"content")
    tmp_path.chmod(0o770)
    for use in (lambda: state.read("name"), lambda: state.write("name", b"")):
        with pytest.raises(StateError, match="other users can write to the state directory"):
            use()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="requires root, to change an owner")
def test_file_of_another_user(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    path = state.write("name", b"content")
    os.chown(path, 12345, -1)
    with pytest.raises(StateError, match="is accessible to other users"):
        state.read("name")


def test_path_that_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state in (StateDirectory(tmp_path / "file"), StateDirectory(tmp_path / "file" / "below")):
        with pytest.raises(
            StateError, match=r"cannot use the state directory .*: .*; choose another one with --state-dir"
        ):
            state.write("name", b"")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "~/.local/state/trioanytls"),
        ("linux", {"XDG_STATE_HOME": "/xdg"}, "/xdg/trioanytls"),
        ("linux", {"XDG_STATE_HOME": "relative"}, "~/.local/state/trioanytls"),
        ("linux", {"XDG_STATE_HOME": ""}, "~/.local/state/trioanytls"),
        ("linux", {"STATE_DIRECTORY": "/var/lib/relay:/var/lib/other", "XDG_STATE_HOME": "/xdg"}, "/var/lib/relay"),
        ("darwin", {"XDG_STATE_HOME": "/xdg"}, "~/Library/Application Support/trioanytls"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/trioanytls"),
        ("win32", {}, "~/AppData/Local/trioanytls"),
    ],
)
@posix
def test_default_directory(platform: str, environment: dict[str, str], expected: str) -> None:
    assert default_directory(environment, platform) == Path(expected).expanduser()


def test_user_without_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(StateError, match="give a state directory with --state-dir"):
        default_directory({}, "linux")
