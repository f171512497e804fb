"""The steps before ANYTLS, for one accepted TCP connection: the PROXY protocol header and the TLS handshake."""

from __future__ import annotations

import ssl

import trio

from trioanytls._connection.logging import ConnectionLoggerAdapter, number_connection
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._transport.addresses import local_address, peer_address
from trioanytls._transport.handshake import handshake
from trioanytls._transport.proxy_protocol import ProxyHeaderDecoder, ProxyProtocolError, TrustedProxies
from trioanytls._transport.tls_stream import TLSStream

# The longest header fits. Bytes after the header only have to be passed on to TLS.
_PROXY_READ = 4096


class HandshakeError(AnyTLSError):
    """The connection did not get as far as ANYTLS.

    Attributes:
      step: the step that failed: "TCP", "PROXY header" or "TLS".
    """

    def __init__(self, step: str, reason: object) -> None:
        super().__init__(str(reason))
        self.step = step


class PendingConnection:
    """A TCP connection that is not an ANYTLS connection yet.

    Attributes:
      connection_id: its number in the log.
      peer_address: the address of the client; None if the client has disconnected already.
      local_address: the address that the client connected to.
      user: None, for the log.
    """

    __slots__ = ("connection_id", "local_address", "peer_address")

    user = None

    def __init__(self, transport: trio.SocketStream) -> None:
        self.connection_id = number_connection()
        self.peer_address = peer_address(transport)
        self.local_address = local_address(transport)

    @property
    def log(self) -> ConnectionLoggerAdapter:
        """A logger whose records name the connection."""
        return ConnectionLoggerAdapter("trioanytls.server", self)


async def receive_proxy_header(
    transport: trio.SocketStream,
    pending: PendingConnection,
    trusted: TrustedProxies,
    timeout: float,  # noqa: ASYNC109 - reported as a failure of the peer
) -> bytes:
    """Receive the PROXY protocol header if the peer is a trusted proxy, and set the addresses of `pending` from it.

    Return the bytes that were received after the header.

    Raises:
      HandshakeError: the header is invalid or incomplete, or the peer has disconnected.
    """
    if pending.peer_address is None:
        # Health checks of a load balancer often end like this. There is no address to count or to serve.
        raise HandshakeError("TCP", "the peer disconnected before the handshake")
    if pending.peer_address[0] not in trusted:
        return b""
    decoder = ProxyHeaderDecoder()
    try:
        with trio.move_on_after(timeout) as scope:
            while decoder.address is None:
                data = await transport.receive_some(_PROXY_READ)
                if not data:
                    raise HandshakeError("PROXY header", "the connection ended before the header was complete")
                decoder.feed(bytes(data))
    except (ProxyProtocolError, trio.BrokenResourceError) as error:
        raise HandshakeError("PROXY header", error) from error
    if scope.cancelled_caught or decoder.address is None:
        raise HandshakeError("PROXY header", "not complete within handshake_timeout")
    # A proxy that connects for itself, as in its health checks, names no source: then the proxy is the peer.
    pending.peer_address = decoder.address.source or pending.peer_address
    pending.local_address = decoder.address.destination or pending.local_address
    return decoder.rest


async def start_tls(
    transport: trio.SocketStream,
    context: ssl.SSLContext,
    received: bytes,
    timeout: float,  # noqa: ASYNC109 - reported as a failure of the peer
) -> TLSStream:
    """Do the TLS handshake.

    Raises:
      HandshakeError: it failed, or took longer than `timeout` seconds.
    """
    try:
        return await handshake(transport, context, timeout=timeout, server_side=True, received=received)
    except trio.BrokenResourceError as error:
        raise HandshakeError("TLS", error) from error
