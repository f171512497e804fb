"""TLS: the contexts under a connection, and the handshake (spec: Connections: TLS 1.3 or higher)."""

from __future__ import annotations

import ssl

import trio

from ._errors import AnyTLSError


class TLSError(AnyTLSError, trio.BrokenResourceError):
    """The TLS handshake failed, or led to less than TLS 1.3; the `__cause__` is what the TLS library said."""


def require_tls13(context: ssl.SSLContext) -> ssl.SSLContext:
    """Raise the context's lowest version to TLS 1.3, in place.

    Raises:
      ValueError: the context forbids TLS 1.3.
    """
    if context.maximum_version not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        raise ValueError(
            f"ANYTLS needs TLS 1.3 or higher; the ssl_context allows at most {context.maximum_version.name}"
        )
    if context.minimum_version != ssl.TLSVersion.TLSv1_3:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client_context() -> ssl.SSLContext:
    """What a client uses by default: the system's trust, the host name checked, TLS 1.3."""
    return require_tls13(ssl.create_default_context())


async def handshake(
    transport: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    timeout: float,  # noqa: ASYNC109 - a failure to be reported as such, not a cancellation
    server_side: bool = False,
    server_hostname: str | None = None,
) -> trio.abc.Stream:
    """Secure a transport; `timeout` is in seconds.

    Raises:
      TLSError: the handshake failed or took too long; the transport is closed.
    """
    stream = trio.SSLStream(transport, context, server_side=server_side, server_hostname=server_hostname)
    try:
        with trio.move_on_after(timeout) as scope:
            await stream.do_handshake()
        if scope.cancelled_caught:
            raise TLSError(f"the TLS handshake took longer than {timeout} s")
        _check_version(stream.version())
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(transport)
        if isinstance(error, TLSError):
            raise
        raise TLSError(f"the TLS handshake failed: {error.__cause__ or error}") from error.__cause__
    except BaseException:
        await trio.aclose_forcefully(transport)
        raise
    return stream


def _check_version(version: str | None) -> None:
    # The contexts leave no other; a context of another make might.
    if version != "TLSv1.3":
        raise TLSError(f"ANYTLS needs TLS 1.3 or higher, the connection has {version}")
