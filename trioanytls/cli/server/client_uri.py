"""The descriptions of a server for its clients: URIs, and their QR codes."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Mapping

import click
import segno

from trioanytls import ServerURI, WireFormat, format_uri, one_line
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress, is_address

from .certificate_files import CertificateDescription


def find_public_address(
    given: PublicAddress | None, listen: ListenAddress, certificate: CertificateDescription | None
) -> PublicAddress:
    """Return the address that clients connect to.

    This is the first one available of: the given address, the address that the server listens on, the certificate's
    name, and a guess.
    """
    if given is not None:
        return given
    if listen.host is not None and not listen.is_everywhere:
        return PublicAddress(listen.host)
    if certificate is not None and not certificate.is_self_signed:
        names = [host for host in certificate.hosts if not host.startswith("*") and not is_address(host)]
        if names:
            return PublicAddress(names[0])
    return PublicAddress(guess_address())


def guess_address() -> str:
    """Return the source address that this machine would use for the Internet. Nothing is sent to find it."""
    # Addresses for documentation: any public address has the same route.
    for family, destination in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.connect((destination, 9))
                return str(one.getsockname()[0])
        except OSError:
            continue
    return "localhost"


def describe_server(
    address: PublicAddress,
    port: int,
    password: str,
    certificate: CertificateDescription,
    protocols: Collection[WireFormat],
) -> ServerURI:
    """Describe the server for a user. The URI names the format of the specification if the server accepts it.

    This client obeys the `proto=anytls1` of the URI. All others ignore it, and use the format "legacy".

    Raises:
      URIError: the address cannot be part of a URI.
    """
    # Clients check the name of a certificate only if an authority has signed it.
    sni = None
    if not certificate.is_self_signed and address.host not in certificate.hosts and certificate.hosts:
        sni = next((host for host in certificate.hosts if not host.startswith("*") and not is_address(host)), None)
    pin = certificate.pin if certificate.is_self_signed else None
    protocol: WireFormat = "anytls1" if "anytls1" in protocols else "legacy"
    return ServerURI(address.host, password, address.port or port, sni=sni, pin=pin, protocol=protocol)


def announce(servers: Mapping[str, ServerURI], *, qr: bool | None) -> None:
    """Print a URI for each user, and its QR code.

    Args:
      servers: name of the user -> the server.
      qr: whether to print QR codes; None: if there is one user and the standard output is a terminal.
    """
    if qr is None:
        qr = len(servers) == 1 and sys.stdout.isatty()
    for name, server in servers.items():
        uri = format_uri(server)
        if len(servers) > 1:
            click.echo(f"# {one_line(name)}")
        click.echo(uri)
        if qr:
            _show_qr(uri)


def _show_qr(text: str) -> None:
    code = segno.make(text, error="l", micro=False)
    try:
        code.terminal(sys.stdout, border=2, compact=True)
    except UnicodeEncodeError:
        click.echo("(QR code not shown: this terminal lacks the block characters)")


def is_journal() -> bool:
    """Return whether the standard output is systemd's journal, which is stored and can be read by others."""
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
