"""A server's certificate and key in files."""

import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trioanytls.cli.common.certificates import Certificate, make_certificate
from trioanytls.cli.server.certificate_files import CertificateFiles, CertificateFilesError


def expired() -> Certificate:
    """Make a certificate that expired yesterday."""
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
    renewed = builder.sign(key, hashes.SHA256())
    return type(made)(renewed.public_bytes(serialization.Encoding.PEM), made.key)


def test_certificate_chain(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("relay.example", "*.example", "192.0.2.7")
    path = tmp_path / "chain.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    described = CertificateFiles(path).check()
    assert described.hosts == ("relay.example", "*.example", "192.0.2.7")
    assert not described.is_self_signed
    assert CertificateFiles(path).context().minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(("days", "text"), [(-1, "expired on "), (6, "expires on "), (8, None)])
def test_warning_before_expiry(tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, text: str | None) -> None:
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
def test_key_that_does_not_match(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = make_certificate("relay.example")
    key = make().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "cert.pem").write_bytes(made.certificate)
    (tmp_path / "key.pem").write_bytes(key)
    with pytest.raises(CertificateFilesError, match="does not match the certificate in "):
        CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem").context()


def test_encrypted_key(tmp_path: Path) -> None:
    made = make_certificate("relay.example")
    key = serialization.load_pem_private_key(made.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "both.pem").write_bytes(made.certificate + key)
    with pytest.raises(CertificateFilesError, match=r"the key in .* is encrypted: decrypt it with `openssl pkey"):
        CertificateFiles(tmp_path / "both.pem").context()
