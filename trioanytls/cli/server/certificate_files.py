"""A server's certificate and key in files: whether they can be used, and what clients have to know of them."""

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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from trioanytls.cli.common.errors import UserError

_log = logging.getLogger("trioanytls.cli")


# Authorities that renew certificates by a program do so a month before they expire: by then, something has failed.
_WARN_BEFORE: Final = dt.timedelta(days=7)


class CertificateFilesError(UserError):
    """The files cannot be used."""


@frozen
class CertificateFiles:
    """Where a certificate and its key are.

    Attributes:
      certificate: the chain in PEM, the server's own certificate first.
      key: the private key in PEM, not encrypted; None where it is in the same file.
    """

    certificate: Path
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What a server presents the certificate with.

        Raises:
          CertificateFilesError: the files cannot be used.
        """
        self.check()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # The default depends on the build of Python: Debian 12's leaves it to the system's configuration of OpenSSL.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            # Without a password, OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.certificate, self.key, "")
        except (OSError, ValueError) as error:
            raise CertificateFilesError(f"{_name(self.certificate)} cannot be used: {error}") from error
        return context

    def check(self) -> CertificateDescription:
        """See whether the files can be used, and say what is in them.

        Raises:
          CertificateFilesError: they cannot.
        """
        certificate = _load_certificate(self.certificate)
        key_path = self.key or self.certificate
        if _public_bytes(_load_key(key_path, self.key is None).public_key()) != _public_bytes(certificate.public_key()):
            raise CertificateFilesError(
                f"the key in {_name(key_path)} does not belong to the certificate in {_name(self.certificate)}: give "
                "the two that were made together, and the server's own certificate first in its file"
            )
        return CertificateDescription(
            hashlib.sha256(_public_bytes(certificate.public_key())).hexdigest(),
            certificate.issuer == certificate.subject,
            _hosts(certificate),
            certificate.not_valid_after_utc,
        )

    def warn_of_expiry(self, description: CertificateDescription) -> None:
        """Log a warning if the certificate has expired, or will soon: once at a start and once at each reload."""
        left = description.expiry - dt.datetime.now(dt.UTC)
        if left < dt.timedelta():
            _log.warning("the certificate in %s expired on %s", _name(self.certificate), description.expiry.date())
        elif left < _WARN_BEFORE:
            _log.warning("the certificate in %s will expire on %s", _name(self.certificate), description.expiry.date())


@frozen
class CertificateDescription:
    """What is known of a certificate.

    Attributes:
      pin: the SHA-256 of its SubjectPublicKeyInfo, in hex.
      is_self_signed: whether no authority has signed it.
      hosts: the names and addresses that it is for.
      expiry: when it ends to be valid.
    """

    pin: str
    is_self_signed: bool
    hosts: tuple[str, ...]
    expiry: dt.datetime


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise CertificateFilesError(f"{_name(path)} has no certificate in PEM (-----BEGIN CERTIFICATE-----)") from None


def _load_key(path: Path, is_in_same_file: bool) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(_read(path), None)
    except TypeError:
        raise CertificateFilesError(
            f"the key in {_name(path)} is encrypted: write it out with `openssl pkey -in ... -out ...`, chmod 600"
        ) from None
    except ValueError:
        what = "; --key names another file" if is_in_same_file else ""
        raise CertificateFilesError(
            f"{_name(path)} has no private key in PEM (-----BEGIN PRIVATE KEY-----){what}"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateFilesError(f"{_name(path)} cannot be read: {error.strerror}") from error


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
