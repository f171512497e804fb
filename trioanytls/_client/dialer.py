"""TLS connections to one server that resume each other's sessions."""

from __future__ import annotations

import math
import ssl
from typing import Final

import trio

from trioanytls._transport import tls_stream
from trioanytls._transport.tls_stream import TLSStream

from .connect import Endpoint

# How long connections start from the same ticket, in seconds. OpenSSL accepts its own tickets for two hours.
_TICKET_USE: Final = 3600.0
# The largest number of connections made without taking a ticket, from a server whose tickets were of no use.
_MAX_SKIP: Final = 255


class Dialer:
    """Makes TLS connections to one server. They resume a session of an earlier one if the server allows it.

    Ideally each connection has a ticket to itself: one that is used twice tells an observer that both connections have
    the same client (RFC 8446, C.4). If reading a ticket leaks, it is used until the server no longer accepts it, or for
    an hour. If a server sends no tickets, or does not accept its own, they are read less and less often.
    """

    def __init__(self, endpoint: Endpoint, handshake_timeout: float) -> None:
        self._endpoint = endpoint
        self._handshake_timeout = handshake_timeout
        self._session: ssl.SSLSession | None = None
        self._session_since = -math.inf
        # The connection to take the next ticket from.
        self._source: TLSStream | None = None
        # Tickets in a row that were of no use, and how many more connections to make without taking one.
        self._misses = 0
        self._skip = 0

    async def dial(self, timeout: float) -> TLSStream:  # noqa: ASYNC109 - reports what took too long
        """Make a connection within `timeout` seconds; see `Endpoint.dial`."""
        self._take_session()
        if tls_stream.SESSION_READ_LEAKS and trio.current_time() >= self._session_since + _TICKET_USE:
            self._session = None
        session = self._session
        transport = await self._endpoint.dial(self._handshake_timeout, timeout, session)
        if transport.resumed:
            self._misses = 0
        elif session is not None and session is self._session:
            self._session = None
            self._missed()
        self._choose(transport)
        return transport

    def _take_session(self) -> None:
        """Take the ticket of the chosen connection, as late as possible: it arrives after the handshake."""
        source, self._source = self._source, None
        if source is None:
            return
        session = source.take_session()
        if session is None:
            self._missed()
        else:
            self._session = session
            self._session_since = trio.current_time()

    def _missed(self) -> None:
        self._misses += 1
        self._skip = min(2 ** (self._misses - 1) - 1, _MAX_SKIP)

    def _choose(self, transport: TLSStream) -> None:
        """Choose this connection to take the next ticket from, if another ticket will be needed."""
        if tls_stream.SESSION_READ_LEAKS and self._session is not None:
            return
        if self._skip:
            self._skip -= 1
            return
        if self._source is not None:
            self._source.keep_session = False
        transport.keep_session = True
        self._source = transport
