"""Files of passwords and users."""

import logging
import sys
from pathlib import Path

import pytest

from trioanytls.cli.common import password_files

posix = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX permissions")


def password_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"sesame", "sesame"),
        (b"sesame\n", "sesame"),
        (b"sesame\r\n", "sesame"),
        (b"sesame\n\n", "sesame"),
        (b" open sesame ", " open sesame "),
        ("Sésame 芝麻".encode(), "Sésame 芝麻"),
        (b"#1:2", "#1:2"),
    ],
)
def test_password_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, password: str) -> None:
    assert password_files.read_password_file(password_file(tmp_path, content)) == password
    assert caplog.text == ""


@posix
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_warning_about_an_accessible_password_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int) -> None:
    path = password_file(tmp_path, b"sesame")
    path.chmod(bits)
    assert password_files.read_password_file(path) == "sesame"
    assert caplog.messages == [f"{path} is accessible to other users of this machine: run chmod 600 {path}"]
    assert caplog.records[0].levelno == logging.WARNING


def test_users_file(tmp_path: Path) -> None:
    path = password_file(tmp_path, b"# comment\nalice:a:b\n\n bob : c \n#carol:d\n")
    assert password_files.read_users_file(path) == {"alice": "a:b", "bob": " c "}
