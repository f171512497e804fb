"""The TLS handshake, with a timeout and errors that name the cause."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from typing import Final

import trio

from trioanytls._exceptions import CertificateError, TLSError

from .tls_stream import TLSStream


async def handshake(
    transport: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    timeout: float,  # noqa: ASYNC109 - a failure to be reported as such, not a cancellation
    server_side: bool = False,
    server_hostname: str | None = None,
    received: bytes = b"",
    pins: Collection[bytes] = (),
    session: ssl.SSLSession | None = None,
) -> TLSStream:
    """Secure a transport.

    Args:
      timeout: in seconds.
      received: bytes that were already read from the transport.
      pins: (client) see `pinning`. If there are any, the server's key must match one of them.
      session: (client) the session of an earlier connection with the same context, to resume if the server agrees.

    Raises:
      CertificateError: the server's certificate is not trusted, or its key does not match a pin.
      TLSError: the handshake failed or took too long.

    The transport is closed if an error is raised.

    Cancellation: the transport is closed.
    """
    try:
        secured = TLSStream(
            transport,
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            received=received,
            session=session,
        )
    except BaseException:
        # For example, `server_hostname` is invalid.
        await trio.aclose_forcefully(transport)
        raise
    try:
        with trio.move_on_after(timeout) as scope:
            await secured.do_handshake()
        if scope.cancelled_caught:
            raise TLSError(f"the TLS handshake took longer than {timeout:.3g} s")
        check_version(secured.version())
        if pins and not secured.has_key_of(pins):
            raise CertificateError("the server's public key does not match a pin")
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(secured)
        if isinstance(error, TLSError):
            raise
        raise _handshake_error(error) from error.__cause__
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


def _handshake_error(error: trio.BrokenResourceError) -> TLSError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CertificateError(f"the server's certificate is not accepted: {cause.verify_message}")
    if _is_version_error(cause):
        return TLSError("the peer does not support TLS 1.3")
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) or cause is None:
        return TLSError("the peer closed the connection during the TLS handshake; it may not support TLS 1.3")
    return TLSError(f"the TLS handshake failed: {cause}")


# The reasons that OpenSSL gives on either side if the two ends have no version in common.
_VERSION_REASONS: Final = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION")


def is_version_mismatch(error: BaseException) -> bool:
    """Return whether a handshake failed because of the TLS version, so that another attempt would fail, too."""
    return isinstance(error, TLSError) and _is_version_error(error.__cause__)


def _is_version_error(error: BaseException | None) -> bool:
    # An error that does not come from OpenSSL has no reason.
    return isinstance(error, ssl.SSLError) and getattr(error, "reason", None) in _VERSION_REASONS


def check_version(version: str | None) -> None:
    """Check the version of a finished handshake. Only a subclass of `SSLContext` can have allowed another one.

    Raises:
      TLSError: the version is not TLS 1.3.
    """
    if version != "TLSv1.3":
        raise TLSError(f"ANYTLS requires TLS 1.3 or higher, but the connection has {version}")
