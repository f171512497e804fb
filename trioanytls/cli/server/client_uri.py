"""What a server tells whoever has started it: URIs for its users, and a QR code for the telephone."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

import click
import segno

from trioanytls import ServerURI, format_uri, one_line
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress, is_address

from .certificate_files import CertificateDescription


def find_public_address(
    given: PublicAddress | None, listen: ListenAddress, certificate: CertificateDescription | None
) -> PublicAddress:
    """What clients are to connect to: what was given, what is listened on, the certificate's name, or else a guess."""
    if given is not None:
        return given
    if listen.host is not None and not listen.is_everywhere:
        return PublicAddress(listen.host)
    if certificate is not None and not certificate.is_self_signed:
        names = [host for host in certificate.hosts if not host.startswith("*") and not is_address(host)]
        if names:
            return PublicAddress(names[0])
    return PublicAddress(_guess())


def _guess() -> str:
    """The address from which this machine would send to the Internet; nothing is sent for that."""
    for family, anybody in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.connect((anybody, 9))
                return str(one.getsockname()[0])
        except OSError:
            continue
    return "localhost"


def make_uri(address: PublicAddress, port: int, password: str, certificate: CertificateDescription) -> str:
    """The URI for a user.

    Raises:
      URIError: the address cannot be in one.
    """
    # The name is looked at only where an authority has signed it.
    sni = None
    if not certificate.is_self_signed and address.host not in certificate.hosts and certificate.hosts:
        sni = next((host for host in certificate.hosts if not host.startswith("*") and not is_address(host)), None)
    pin = certificate.pin if certificate.is_self_signed else None
    return format_uri(ServerURI(address.host, password, address.port or port, sni=sni, pin=pin))


def announce(
    users: Mapping[str, str], address: PublicAddress, port: int, certificate: CertificateDescription, *, qr: bool | None
) -> None:
    """Print a URI for each user, and a QR code of it; without `qr` being said, where there is one user, on a terminal.

    Raises:
      URIError: the address cannot be in one.
    """
    if qr is None:
        qr = len(users) == 1 and sys.stdout.isatty()
    for name, password in users.items():
        uri = make_uri(address, port, password, certificate)
        if len(users) > 1:
            click.echo(f"# {one_line(name)}")
        click.echo(uri)
        if qr:
            _show_qr(uri)


def _show_qr(text: str) -> None:
    code = segno.make(text, error="l", micro=False)
    try:
        code.terminal(sys.stdout, border=2, compact=True)
    except UnicodeEncodeError:
        click.echo("(no QR code: this terminal has not the characters for it)")


def is_journal() -> bool:
    """Whether the standard output is the system's journal, which keeps what it gets, and has more readers."""
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
