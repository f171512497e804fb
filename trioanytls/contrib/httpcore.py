"""HTTP requests over ANYTLS streams: a network backend for `httpcore`.

Pass an `AnyTLSBackend` to a connection pool of `httpcore`::

    async with trioanytls.open_client("relay.example", 8443, password="...") as client:
        backend = AnyTLSBackend(client)
        async with httpcore.AsyncConnectionPool(network_backend=backend) as http:
            response = await http.request("GET", "https://www.example.com/")

Each HTTP connection is a stream to the relay. The stream begins with its destination (see `trioanytls.destination`), to
which the relay connects it. HTTPS is end to end: the TLS session with the destination runs inside the stream.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import trio

from trioanytls import Client, Stream
from trioanytls.destination import Destination, encode, encode_tls_name

__all__ = ["AnyTLSBackend", "AnyTLSNetworkStream"]


class AnyTLSBackend(httpcore.AsyncNetworkBackend):
    """A network backend that opens a stream for each connection of `httpcore`.

    Args:
      client: opens the streams.
      preamble: makes the first bytes of a stream from host and port; default: the SOCKS address that relays expect.
      wait_acknowledged: whether to wait until the relay has connected to the destination, which takes a round trip.
        Failures then raise `httpcore.ConnectError`, and delays `httpcore.ConnectTimeout`. Otherwise, the first read
        raises an error.
    """

    def __init__(
        self,
        client: Client,
        *,
        preamble: Callable[[str, int], bytes] | None = None,
        wait_acknowledged: bool = True,
    ) -> None:
        self._client = client
        self._preamble = preamble or _socks_address
        self._wait_acknowledged = wait_acknowledged

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore prescribes it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a stream to a destination, see `httpcore.AsyncNetworkBackend`.

        `local_address` and `socket_options` are ignored: the relay makes the TCP connection.

        Raises:
          httpcore.ConnectError: no stream could be opened, the relay could not connect, or the host is invalid.
          httpcore.ConnectTimeout: the timeout has expired.
        """
        with _translated(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            with _host_checked():
                preamble = self._preamble(host, port)
            stream = await self._client.open_stream()
            try:
                await stream.send_all(preamble)
                if self._wait_acknowledged:
                    await stream.wait_acknowledged()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return AnyTLSNetworkStream(stream)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore prescribes it
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse to connect, as a relay connects to no Unix sockets.

        Raises:
          httpcore.UnsupportedProtocol: always.
        """
        raise httpcore.UnsupportedProtocol("a relay cannot connect to Unix sockets")

    async def sleep(self, seconds: float) -> None:
        """Sleep, see `httpcore.AsyncNetworkBackend`."""
        await trio.sleep(seconds)


class AnyTLSNetworkStream(httpcore.AsyncNetworkStream):
    """A stream, or TLS inside a stream, with the interface of `httpcore`."""

    def __init__(self, stream: Stream, secured: trio.SSLStream[Stream] | None = None) -> None:
        self._stream = stream
        self._secured = secured
        self._top: trio.abc.Stream = secured or stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore prescribes it
        """Read from the stream, see `httpcore.AsyncNetworkStream`."""
        with _translated(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return bytes(await self._top.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore prescribes it
        """Write to the stream, see `httpcore.AsyncNetworkStream`."""
        with _translated(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            await self._top.send_all(buffer)

    async def aclose(self) -> None:
        """Close the stream, see `httpcore.AsyncNetworkStream`."""
        await self._top.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore prescribes it
    ) -> httpcore.AsyncNetworkStream:
        """Run TLS inside the stream, see `httpcore.AsyncNetworkStream`. Once for each stream; a failure closes it.

        Raises:
          httpcore.ConnectError: the handshake failed, or `server_hostname` is not a host.
          httpcore.ConnectTimeout: the timeout has expired.
          httpcore.UnsupportedProtocol: TLS runs in the stream already.
        """
        if self._secured is not None:
            raise httpcore.UnsupportedProtocol("TLS in TLS in a stream is not supported")
        with _translated(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                # The name that the relay got, without a final dot.
                with _host_checked():
                    name = None if server_hostname is None else encode_tls_name(server_hostname)
                    secured = trio.SSLStream(self._stream, ssl_context, server_hostname=name, https_compatible=True)
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(self._stream)
                raise
        return AnyTLSNetworkStream(self._stream, secured)

    def get_extra_info(self, info: str) -> Any:
        """Return the value for `"ssl_object"` or `"is_readable"`, None for other keys.

        An idle stream is "readable" if it has ended: `httpcore` must not use it again.
        """
        if info == "ssl_object" and self._secured is not None:
            # The Trio backend of httpcore reads it, too.
            return self._secured._ssl_object  # noqa: SLF001 - private in Trio, which has no other way to it
        if info == "is_readable":
            return self._stream.closed
        return None


def _socks_address(host: str, port: int) -> bytes:
    return encode(Destination(host, port))


@contextlib.contextmanager
def _host_checked() -> Iterator[None]:
    """Translate the `ValueError` for an invalid host or port into an error of `httpcore`."""
    try:
        yield
    except ValueError as error:
        raise httpcore.ConnectError(str(error)) from error


@contextlib.contextmanager
def _translated(timeout: float | None, late: type[Exception], broken: type[Exception]) -> Iterator[None]:
    """Apply a timeout, and translate the errors of Trio into those of `httpcore`."""
    try:
        with trio.fail_after(math.inf if timeout is None else timeout):
            yield
    except trio.TooSlowError as error:
        raise late(f"timed out after {timeout} s") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise broken(str(error)) from error
