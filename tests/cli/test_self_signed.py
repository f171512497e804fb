"""The certificate and the password of --self-signed."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.common.state_dir import StateDirectory, StateError
from trioanytls.cli.server import self_signed
from trioanytls.cli.server.certificate_files import CertificateFiles

from .test_certificate_files import expired


def test_certificate_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    files = self_signed.keep_certificate(state, "relay.example")
    first = files.certificate.read_bytes()
    described = files.check()
    assert described.hosts == ("relay.example",)
    assert described.is_self_signed
    assert described.expiry > dt.datetime.now(dt.UTC) + dt.timedelta(days=3000)
    files.context()
    # The certificate does not reveal to a prober that this is an ANYTLS server.
    assert b"trioanytls" not in x509.load_pem_x509_certificate(first).public_bytes(serialization.Encoding.DER)
    assert self_signed.keep_certificate(state, "other.example").certificate.read_bytes() == first


@pytest.mark.parametrize("days", [1, 29, -1])
def test_renewed_certificate_has_the_same_key(tmp_path: Path, days: int) -> None:
    state = StateDirectory(tmp_path)
    old = make_certificate("relay.example", days=days) if days > 0 else expired()
    state.write(self_signed.FILE, old.key + old.certificate)
    pin = CertificateFiles(tmp_path / self_signed.FILE).check().pin
    described = self_signed.keep_certificate(state, "relay.example").check()
    assert described.expiry > dt.datetime.now(dt.UTC) + dt.timedelta(days=3000)
    assert described.pin == pin


def test_invalid_files(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write(self_signed.FILE, b"nothing")
    with pytest.raises(
        StateError, match=r"no certificate in PEM .*; delete it to have it regenerated, with another pin"
    ):
        self_signed.keep_certificate(state, "relay.example")
    state.write(self_signed.PASSWORD_FILE, b"\n")
    with pytest.raises(StateError, match="is empty: delete it"):
        self_signed.keep_password(state)


def test_password_is_kept(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    password = self_signed.keep_password(state)
    assert len(password) >= 32
    assert self_signed.keep_password(state) == password
    assert self_signed.keep_password(StateDirectory(tmp_path / "other")) != password
    # Users can change it by hand.
    state.write(self_signed.PASSWORD_FILE, b"my own\n")
    assert self_signed.keep_password(state) == "my own"
