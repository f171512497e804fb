"""The TLS handshake, within a time, and with errors that say what went wrong."""

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
      received: bytes that were read from the transport already.
      pins: (client) see `pinning`; the server's key has to fit one of them, if there are any.
      session: (client) one of an earlier connection with the same context, to be resumed if the server agrees.

    Raises:
      CertificateError: the server is not the one that was meant.
      TLSError: the handshake failed or took too long. In each case, the transport is closed.
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
        # A host name that cannot be one.
        await trio.aclose_forcefully(transport)
        raise
    try:
        with trio.move_on_after(timeout) as scope:
            await secured.do_handshake()
        if scope.cancelled_caught:
            raise TLSError(f"the TLS handshake took longer than {timeout:.3g} s")
        check_version(secured.version())
        if pins and not secured.has_key_of(pins):
            raise CertificateError("the server's public key is not the one that is pinned")
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
    if _is_of_version(cause):
        return TLSError("the peer does not speak TLS 1.3")
    if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) or cause is None:
        return TLSError("the peer closed the connection during the TLS handshake; it may not speak TLS 1.3")
    return TLSError(f"the TLS handshake failed: {cause}")


# What OpenSSL says where the two ends have no version in common, on either side.
_TOO_OLD: Final = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION")


def is_version_mismatch(error: BaseException) -> bool:
    """Whether the handshake has failed of a version, and so would the next one."""
    return isinstance(error, TLSError) and _is_of_version(error.__cause__)


def _is_of_version(error: BaseException | None) -> bool:
    # One that OpenSSL has not made has no reason.
    return isinstance(error, ssl.SSLError) and getattr(error, "reason", None) in _TOO_OLD


def check_version(version: str | None) -> None:
    # The contexts leave no other; a context of another make might.
    if version != "TLSv1.3":
        raise TLSError(f"ANYTLS needs TLS 1.3 or higher, the connection has {version}")
