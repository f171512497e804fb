"""The sources of a server's users."""

import sys
from pathlib import Path

import pytest

from trioanytls.cli.common import toml_lines
from trioanytls.cli.common.password_files import PasswordError
from trioanytls.cli.common.toml_lines import ConfigError
from trioanytls.cli.server import users as user_source
from trioanytls.cli.server.users import UserSource

from .test_password_files import password_file

posix = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX permissions")


def test_several_sources(tmp_path: Path) -> None:
    path = password_file(tmp_path, b"one")
    users = tmp_path / "users"
    users.write_text("alice:two")
    config = tmp_path / "config.toml"
    config.write_text('[users]\nbob = "three"\n')
    for one in (users, config):
        one.chmod(0o600)
    assert UserSource(password_file=path, users_file=users, config=config).read() == {
        "user": "one",
        "alice": "two",
        "bob": "three",
    }
    assert UserSource(password="four", password_file=path).read() == {"user": "four"}
    assert UserSource().read() == {}
    assert "four" not in repr(UserSource(password="four"))


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("", {}),
        ("[users]\n", {}),
        ('password = "sesame"', {"user": "sesame"}),
        (
            'password = "sesame"\n[users]\nalice = "other"\n"bob b" = "more"',
            {"user": "sesame", "alice": "other", "bob b": "more"},
        ),
    ],
)
@posix
def test_users_in_the_configuration_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, users: dict[str, str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    config.chmod(0o644)
    assert user_source.users_of(toml_lines.read(config)) == users
    # A file without passwords is not a secret.
    assert bool(caplog.messages) == bool(users)


@pytest.mark.parametrize("value", ['""', "1", "true", "[]", '{ file = "x" }'])
def test_invalid_users(tmp_path: Path, value: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"\npassword = {value}")
    with pytest.raises(ConfigError, match="line 2: password: a password must be a non-empty string"):
        user_source.users_of(toml_lines.read(config))


def test_password_in_the_environment() -> None:
    assert user_source.from_environment({}) is None
    assert user_source.from_environment({"TRIOANYTLS_PASSWORD": "sesame"}) == "sesame"
    with pytest.raises(PasswordError, match="is empty"):
        user_source.from_environment({"TRIOANYTLS_PASSWORD": ""})
