"""A client's single connection, made from an address or over a given transport."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import AsyncIterator, Sequence

import trio

from trioanytls._checks import check_port, check_strings, check_type
from trioanytls._config import Config, check_config, protocol_settings
from trioanytls._connection.connection import Connection, is_running, run_connection
from trioanytls._connection.nursery import BackgroundNursery
from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.formats import check_format, check_identifier, make_client
from trioanytls._protocol.interface import WireFormat
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._transport.addresses import peer_address
from trioanytls._transport.handshake import handshake
from trioanytls._transport.hosts import encode_host, encode_tls_name
from trioanytls._transport.pinning import parse_pins
from trioanytls._transport.tcp import open_tcp_stream
from trioanytls._transport.tls_context import client_context, require_tls13
from trioanytls._transport.tls_stream import TLSStream

from .connection import ClientConnection


@contextlib.asynccontextmanager
async def open_connection(
    host: str,
    port: int,
    *,
    password: str,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    padding_scheme: PaddingScheme | None = None,
    pin: str | Sequence[str] | None = None,
    protocol: WireFormat = "anytls1",
    config: Config = Config(),
) -> AsyncIterator[Connection]:
    """Connect to an ANYTLS server. An async context manager that yields the `Connection` and closes it at the end.

    Args:
      host, port: the server's address, for TCP.
      password: the user's password.
      ssl_context: default: one that trusts the system's authorities. If it allows less than TLS 1.3, its minimum
        version is raised, in place.
      server_hostname: the name that the server's certificate must have; default: `host`.
      padding_scheme: the scheme to shape the first writes with; default: the built-in one.
      pin: the SHA-256 of the server's public key, in hex or Base64; or several, of which one must match. Without
        `ssl_context`, the pin replaces the authorities. With one, both checks must succeed.
      protocol: the wire format: "anytls1", that of the specification, or "legacy", that of anytls-go, sing-box and
        mihomo.
      config: timeouts and limits.

    Raises:
      TypeError: an argument has the wrong type.
      OSError: the TCP connection failed.
      TLSError: the TLS handshake failed; `CertificateError` if the server's certificate or key is not accepted.
      ValueError: `host`, `port`, `server_hostname` or a pin is invalid, `ssl_context` forbids TLS 1.3, the password
        cannot be encoded, or a field of `config` is a setting of the server.

    A wrong password is not known when the block begins: the server then closes the connection without an answer, and
    the streams raise `ConnectionClosed`.

    Cancellation: the connection is closed, within `Config.close_timeout`.
    """
    server = Endpoint(host, port, ssl_context, server_hostname, pin)
    # Before connecting.
    check_connection_arguments(password, padding_scheme, protocol, config)
    secured = await server.dial(config.handshake_timeout)
    # It is not kept as long as the connection.
    del server
    scheme = padding_scheme or PaddingScheme.DEFAULT
    connection = client_connection(secured, password, scheme, protocol, config)
    async with RunningConnection(connection):
        yield connection


class Endpoint:
    """The address of a server and the checks of its identity, from the arguments of `open_connection`.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: `host`, `port`, `server_hostname` or a pin is invalid, or `ssl_context` forbids TLS 1.3.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None,
        server_hostname: str | None,
        pin: str | Sequence[str] | None,
    ) -> None:
        check_type("host", host, str)
        # The system's resolver would take 70000 for 4464.
        check_port(port)
        check_type("ssl_context", ssl_context, ssl.SSLContext, optional=True)
        check_type("server_hostname", server_hostname, str, optional=True)
        if not isinstance(pin, str):
            check_strings("pin", pin, optional=True)
        self.host = encode_host(host)
        self.port = port
        self._pins = parse_pins(pin)
        # A pin is stronger than any authority, and a self-signed certificate has none.
        context = client_context(verify=not self._pins) if ssl_context is None else ssl_context
        self._context = require_tls13(context)
        # Not left to `ssl`, which implements another IDNA.
        self._server_hostname = encode_tls_name(server_hostname or host)

    async def dial(
        self,
        handshake_timeout: float,
        connect_timeout: float = math.inf,
        session: ssl.SSLSession | None = None,
    ) -> TLSStream:
        """Make a TLS connection.

        Args:
          handshake_timeout: the limit for TLS, in seconds.
          connect_timeout: the limit for TCP and TLS together, in seconds.
          session: the session of an earlier connection, to resume.

        Raises:
          OSError: the TCP connection failed; `TimeoutError` if it took too long.
          TLSError: the TLS handshake failed or took too long.
        """
        deadline = trio.current_time() + connect_timeout
        if deadline == math.inf:
            transport = await open_tcp_stream(self.host, self.port)
        else:
            with trio.move_on_at(deadline) as scope:
                transport = await open_tcp_stream(self.host, self.port)
            if scope.cancelled_caught:
                raise TimeoutError(f"no TCP connection to {self.host}:{self.port} within {connect_timeout:g} s")
        return await handshake(
            transport,
            self._context,
            timeout=max(0, min(handshake_timeout, deadline - trio.current_time())),
            server_hostname=self._server_hostname,
            pins=self._pins,
            session=session,
        )


@contextlib.asynccontextmanager
async def wrap_client(
    transport: trio.abc.Stream,
    *,
    password: str,
    padding_scheme: PaddingScheme | None = None,
    protocol: WireFormat = "anytls1",
    config: Config = Config(),
) -> AsyncIterator[Connection]:
    """Run an ANYTLS connection over a transport that is connected and secured already, like `open_connection`.

    The transport is closed at the end of the block, and also if another argument raises `TypeError` or `ValueError`.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: the password cannot be encoded, or a field of `config` is a setting of the server.
    """
    check_type("transport", transport, trio.abc.Stream)
    try:
        check_connection_arguments(password, padding_scheme, protocol, config)
        scheme = padding_scheme or PaddingScheme.DEFAULT
        connection = client_connection(transport, password, scheme, protocol, config)
    except BaseException:
        # An invalid argument.
        await trio.aclose_forcefully(transport)
        raise
    async with RunningConnection(connection):
        yield connection


def check_connection_arguments(
    password: str, padding_scheme: PaddingScheme | None, protocol: WireFormat, config: Config
) -> None:
    """Check the arguments that `open_connection`, `wrap_client` and `open_client` share.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: the password cannot be encoded, `protocol` is unknown, or a field of `config` does not suit it or is a
        setting of the server.
    """
    check_type("password", password, str)
    check_type("padding_scheme", padding_scheme, PaddingScheme, optional=True)
    check_config(config, "client")
    check_format("protocol", protocol)
    check_identifier(protocol, config.client_identifier)
    hash_password(password)


def client_connection(
    transport: trio.abc.Stream, password: str, scheme: PaddingScheme, protocol: WireFormat, config: Config
) -> Connection:
    """Make a connection that does not run yet."""
    limits, offer = protocol_settings(config)
    end = make_client(protocol, password, scheme, limits, config.client_identifier, offer)
    below = transport.transport if isinstance(transport, TLSStream) else transport
    return ClientConnection(transport, end, scheme, config, peer_address=peer_address(below))


class RunningConnection:
    """Runs the tasks of a connection while the block runs, and closes the connection at its end."""

    __slots__ = ("_connection", "_nursery", "_scope")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._nursery = BackgroundNursery()

    async def __aenter__(self) -> None:
        nursery = await self._nursery.__aenter__()
        self._scope = nursery.cancel_scope
        nursery.start_soon(run_connection, self._connection)
        # Without `nursery.start`, which costs a nursery and a scope.
        while not is_running(self._connection):
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def __aexit__(self, *_exception: object) -> None:
        # Also after a cancellation, the connection is closed in order.
        self._scope.shield = True
        try:
            await self._connection.aclose()
        finally:
            await self._nursery.__aexit__()
