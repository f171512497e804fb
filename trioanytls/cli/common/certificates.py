"""Self-signed certificates, and the TLS contexts of both ends for them."""

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

# The certificate is valid from this long ago, for peers whose clock is slow.
_LEEWAY = dt.timedelta(hours=1)


@frozen
class Certificate:
    """A self-signed certificate and its private key.

    Attributes:
      certificate: the certificate in PEM.
      key: the private key in PEM, not encrypted.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def pin(self) -> str:
        """The SHA-256 of the public key in hex, as in `anytls://` URIs."""
        public_key = x509.load_pem_x509_certificate(self.certificate).public_key()
        key_info = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(key_info).hexdigest()

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS context of a server with this certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # `load_cert_chain` reads only files. Other users cannot access the directory.
        with tempfile.TemporaryDirectory(prefix="trioanytls-") as directory:
            path = Path(directory, "certificate.pem")
            path.write_bytes(self.key + self.certificate)
            context.load_cert_chain(path)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the TLS context of a client that trusts only this certificate, and checks the host name."""
        return ssl.create_default_context(cadata=self.certificate.decode("ascii"))


def make_certificate(
    *hosts: str,
    days: int = 1,
    name: str = "trioanytls, self-signed",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Certificate:
    """Make a certificate for a server.

    Args:
      hosts: the DNS names and IP addresses of the server.
      days: the validity in days.
      name: the common name, which is shown to people. Clients check only `hosts`.
      key: the private key; default: a new one.

    Raises:
      ValueError: `hosts` is empty, or a DNS name is not ASCII.
    """
    if not hosts:
        raise ValueError("hosts must not be empty")
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
