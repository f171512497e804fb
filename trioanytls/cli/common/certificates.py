"""A certificate made on the spot, and the TLS contexts of both ends that go with it."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import ssl
import tempfile
from pathlib import Path

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trioanytls.destination import encode_host

# A clock that is a little slow must not make the certificate one of the future.
_LEEWAY = dt.timedelta(hours=1)


@frozen
class Certificate:
    """A certificate that signs itself, and its private key.

    Attributes:
      certificate: in PEM.
      key: the private key in PEM, not encrypted.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def pin(self) -> str:
        """The SHA-256 of the public key, as `anytls://` URIs have it."""
        public_key = x509.load_pem_x509_certificate(self.certificate).public_key()
        key_info = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(key_info).hexdigest()

    def server_context(self) -> ssl.SSLContext:
        """What a server presents the certificate with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # `load_cert_chain` reads files only. The directory is this user's alone.
        with tempfile.TemporaryDirectory(prefix="trioanytls-") as directory:
            path = Path(directory, "certificate.pem")
            path.write_bytes(self.key + self.certificate)
            context.load_cert_chain(path)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Trusts this certificate and no other, and checks the host name."""
        return ssl.create_default_context(cadata=self.certificate.decode("ascii"))


def make_certificate(
    *hosts: str,
    days: int = 1,
    name: str = "trioanytls, self-signed",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Certificate:
    """Make a certificate for a server.

    Args:
      hosts: the DNS names and IP addresses that it is for.
      days: how long it is valid.
      name: for the eye: who it is for is said by `hosts` alone.
      key: the private key; default: a new one.

    Raises:
      ValueError: there is no host, or a DNS name has other than ASCII characters.
    """
    if not hosts:
        raise ValueError("a certificate is for one host at least")
    key = key or ec.generate_private_key(ec.SECP256R1())
    public_key = key.public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(encode_host(host))
