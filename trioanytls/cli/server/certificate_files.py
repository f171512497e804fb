"""A server's certificate and key in files: loading and checking them, and describing them for clients."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import ssl
from pathlib import Path
from typing import Final

import click
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from trioanytls.cli.common.errors import UserError

_log = logging.getLogger("trioanytls.cli")


# Programs renew certificates about a month before they expire. A week before, the renewal must have failed.
_WARN_BEFORE: Final = dt.timedelta(days=7)


class CertificateFilesError(UserError):
    """The files of a certificate cannot be used.

    The exit code is not that of invalid settings: a renewal may be replacing the files, so a restart can help.
    """


@frozen
class CertificateFiles:
    """The files of a certificate and its key.

    Attributes:
      certificate: the chain in PEM, the server's own certificate first.
      key: the private key in PEM, not encrypted; None if it is in the same file.
    """

    certificate: Path
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a server with this certificate.

        Raises:
          CertificateFilesError: the files cannot be used.
        """
        self.check()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # The default depends on the build of Python: on Debian 12, it is OpenSSL's system-wide configuration.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            # Without a password, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.certificate, self.key, "")
        except (OSError, ValueError) as error:
            raise CertificateFilesError(f"cannot use the certificate {_name(self.certificate)}: {error}") from error
        return context

    def check(self) -> CertificateDescription:
        """Check the files, and describe the certificate.

        Raises:
          CertificateFilesError: the files cannot be used.
        """
        certificate = _load_certificate(self.certificate)
        key_path = self.key or self.certificate
        if _public_bytes(_load_key(key_path, self.key is None).public_key()) != _public_bytes(certificate.public_key()):
            raise CertificateFilesError(
                f"the key in {_name(key_path)} does not match the certificate in {_name(self.certificate)}: give a "
                "matching pair, with the server's own certificate first in its file"
            )
        return CertificateDescription(
            hashlib.sha256(_public_bytes(certificate.public_key())).hexdigest(),
            certificate.issuer == certificate.subject,
            _hosts(certificate),
            certificate.not_valid_after_utc,
            certificate.fingerprint(hashes.SHA256()).hex(),
        )

    def warn_of_expiry(self, description: CertificateDescription) -> None:
        """Log a warning if the certificate has expired, or will soon: once at a start and once at each reload."""
        left = description.expiry - dt.datetime.now(dt.UTC)
        if left < dt.timedelta():
            _log.warning("the certificate in %s expired on %s", _name(self.certificate), description.expiry.date())
        elif left < _WARN_BEFORE:
            _log.warning("the certificate in %s expires on %s", _name(self.certificate), description.expiry.date())


@frozen
class CertificateDescription:
    """A description of a certificate.

    Attributes:
      pin: the SHA-256 of its SubjectPublicKeyInfo, in hex.
      is_self_signed: whether it is signed with its own key.
      hosts: its host names and IP addresses.
      expiry: the end of its validity.
      fingerprint: the SHA-256 of the certificate, in hex.
    """

    pin: str
    is_self_signed: bool
    hosts: tuple[str, ...]
    expiry: dt.datetime
    fingerprint: str


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise CertificateFilesError(
            f"no certificate in PEM format (-----BEGIN CERTIFICATE-----) in {_name(path)}"
        ) from None


def _load_key(path: Path, is_in_same_file: bool) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(_read(path), None)
    except TypeError:
        raise CertificateFilesError(
            f"the key in {_name(path)} is encrypted: decrypt it with `openssl pkey -in ... -out ...`, then run chmod "
            "600 on the result"
        ) from None
    except ValueError:
        what = "; give the key's file with --key" if is_in_same_file else ""
        raise CertificateFilesError(
            f"no private key in PEM format (-----BEGIN PRIVATE KEY-----) in {_name(path)}{what}"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateFilesError(f"cannot read {_name(path)}: {error.strerror}") from error


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _name(path: Path) -> str:
    return click.format_filename(path)
