"""What the server keeps, and the files that it is given: certificates, keys, passwords, and who can read them."""

import datetime as dt
import logging
import os
import ssl
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trioanytls.cli.common import password_files, toml_lines
from trioanytls.cli.common.certificates import Certificate, make_certificate
from trioanytls.cli.common.password_files import PasswordError
from trioanytls.cli.common.state_dir import StateDirectory, StateError, default_directory
from trioanytls.cli.common.toml_lines import ConfigError
from trioanytls.cli.server import self_signed
from trioanytls.cli.server import users as user_source
from trioanytls.cli.server.certificate_files import CertificateFiles, CertificateFilesError
from trioanytls.cli.server.users import UserSource

posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions as POSIX has them")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The directory


@posix
def test_what_is_kept_is_for_nobody_else(tmp_path: Path) -> None:
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
    # Nothing else is left behind.
    assert list(state.path.iterdir()) == [path]


@posix
def test_what_others_may_know_is_not_used(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("name", b"content").chmod(0o640)
    with pytest.raises(StateError, match=r"name is accessible to other users: delete it"):
        state.read("name")


@posix
def test_where_others_can_write_nothing_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("name", b"content")
    tmp_path.chmod(0o770)
    for use in (lambda: state.read("name"), lambda: state.write("name", b"")):
        with pytest.raises(StateError, match="other users can write to the state directory"):
            use()


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_somebody_else_is_not_used(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    path = state.write("name", b"content")
    os.chown(path, 12345, -1)
    with pytest.raises(StateError, match="is accessible to other users"):
        state.read("name")


def test_a_directory_that_is_none(tmp_path: Path) -> None:
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
def test_where_it_is(platform: str, environment: dict[str, str], expected: str) -> None:
    assert default_directory(environment, platform) == Path(expected).expanduser()


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(StateError, match="give a state directory with --state-dir"):
        default_directory({}, "linux")


# A certificate of our own


def test_a_certificate_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    files = self_signed.keep_certificate(state, "relay.example")
    first = files.certificate.read_bytes()
    described = files.check()
    assert described.hosts == ("relay.example",)
    assert described.is_self_signed
    assert described.expiry > dt.datetime.now(dt.UTC) + dt.timedelta(days=3000)
    files.context()
    # Nothing in it tells a stranger what serves here.
    assert b"trioanytls" not in x509.load_pem_x509_certificate(first).public_bytes(serialization.Encoding.DER)
    assert self_signed.keep_certificate(state, "other.example").certificate.read_bytes() == first


@pytest.mark.parametrize("days", [1, 29, -1])
def test_a_certificate_is_made_anew_with_the_key_it_had(tmp_path: Path, days: int) -> None:
    state = StateDirectory(tmp_path)
    old = make_certificate("relay.example", days=days) if days > 0 else expired()
    state.write(self_signed.FILE, old.key + old.certificate)
    pin = CertificateFiles(tmp_path / self_signed.FILE).check().pin
    described = self_signed.keep_certificate(state, "relay.example").check()
    assert described.expiry > dt.datetime.now(dt.UTC) + dt.timedelta(days=3000)
    assert described.pin == pin


def expired() -> Certificate:
    """A certificate of yesterday."""
    made = make_certificate("relay.example")
    key = serialization.load_pem_private_key(made.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate(made.certificate)
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        now - dt.timedelta(days=2),
        now - dt.timedelta(days=1),
    )
    made_anew = builder.sign(key, hashes.SHA256())
    return type(made)(made_anew.public_bytes(serialization.Encoding.PEM), made.key)


def test_what_is_kept_is_spoilt(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write(self_signed.FILE, b"nothing")
    with pytest.raises(
        StateError, match=r"no certificate in PEM .*; delete it to have it regenerated, with another pin"
    ):
        self_signed.keep_certificate(state, "relay.example")
    state.write(self_signed.PASSWORD_FILE, b"\n")
    with pytest.raises(StateError, match="is empty: delete it"):
        self_signed.keep_password(state)


def test_a_password_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    password = self_signed.keep_password(state)
    assert len(password) >= 32
    assert self_signed.keep_password(state) == password
    assert self_signed.keep_password(StateDirectory(tmp_path / "other")) != password
    # It can be changed by hand.
    state.write(self_signed.PASSWORD_FILE, b"my own\n")
    assert self_signed.keep_password(state) == "my own"


# Certificates and keys that are given


def test_a_chain(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("relay.example", "*.example", "192.0.2.7")
    path = tmp_path / "chain.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    described = CertificateFiles(path).check()
    assert described.hosts == ("relay.example", "*.example", "192.0.2.7")
    assert not described.is_self_signed
    assert CertificateFiles(path).context().minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(("days", "text"), [(-1, "expired on "), (6, "expires on "), (8, None)])
def test_a_certificate_that_expires_is_warned_of_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, text: str | None
) -> None:
    made = make_certificate("relay.example", days=days) if days > 0 else expired()
    (tmp_path / "old.pem").write_bytes(made.key + made.certificate)
    files = CertificateFiles(tmp_path / "old.pem")
    description = files.check()
    files.context()
    assert caplog.records == []
    files.warn_of_expiry(description)
    assert [record.getMessage() for record in caplog.records] == (
        [] if text is None else [f"the certificate in {tmp_path / 'old.pem'} {text}{description.expiry.date()}"]
    )


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 2048), lambda: ec.generate_private_key(ec.SECP256R1())]
)
def test_a_key_that_does_not_belong(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = make_certificate("relay.example")
    key = make().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "cert.pem").write_bytes(made.certificate)
    (tmp_path / "key.pem").write_bytes(key)
    with pytest.raises(CertificateFilesError, match="does not match the certificate in "):
        CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem").context()


def test_a_key_that_is_encrypted(tmp_path: Path) -> None:
    made = make_certificate("relay.example")
    key = serialization.load_pem_private_key(made.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "both.pem").write_bytes(made.certificate + key)
    with pytest.raises(CertificateFilesError, match=r"the key in .* is encrypted: decrypt it with `openssl pkey"):
        CertificateFiles(tmp_path / "both.pem").context()


# Passwords


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
def test_a_password_file(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, password: str) -> None:
    assert password_files.read_password_file(password_file(tmp_path, content)) == password
    assert caplog.text == ""


@posix
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_a_password_file_that_others_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int) -> None:
    path = password_file(tmp_path, b"sesame")
    path.chmod(bits)
    assert password_files.read_password_file(path) == "sesame"
    assert caplog.messages == [f"{path} is accessible to other users of this machine: run chmod 600 {path}"]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_users_file(tmp_path: Path) -> None:
    path = password_file(tmp_path, b"# comment\nalice:a:b\n\n bob : c \n#carol:d\n")
    assert password_files.read_users_file(path) == {"alice": "a:b", "bob": " c "}


def test_several_places(tmp_path: Path) -> None:
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
def test_users_of_a_configuration_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, users: dict[str, str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    config.chmod(0o644)
    assert user_source.users_of(toml_lines.read(config)) == users
    # It is no secret without passwords in it.
    assert bool(caplog.messages) == bool(users)


@pytest.mark.parametrize("value", ['""', "1", "true", "[]", '{ file = "x" }'])
def test_users_that_are_none(tmp_path: Path, value: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"\npassword = {value}")
    with pytest.raises(ConfigError, match="line 2: password: a password must be a non-empty string"):
        user_source.users_of(toml_lines.read(config))


def test_the_environment() -> None:
    assert user_source.from_environment({}) is None
    assert user_source.from_environment({"TRIOANYTLS_PASSWORD": "sesame"}) == "sesame"
    with pytest.raises(PasswordError, match="is empty"):
        user_source.from_environment({"TRIOANYTLS_PASSWORD": ""})
