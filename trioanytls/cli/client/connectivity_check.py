"""The connection to the server that the client opens at its start, to check the address and the password."""

from __future__ import annotations

import contextlib
from typing import Final

import trio

import trioanytls
from trioanytls.cli.common import os_errors
from trioanytls.cli.common.errors import ClientError
from trioanytls.destination import Destination

# The timeout of the check, in seconds: longer than that of opening a connection.
_CHECK_TIMEOUT: Final = 15.0
# How long a server of the legacy format may take to say its version, in seconds. One of version 1 never does.
_VERSION_TIMEOUT: Final = 2.0
_POLL_INTERVAL: Final = 0.05


class ConnectFailures(trioanytls.ClientEvents):
    """Client events that end the check after the first failed attempt to connect.

    After the check, the client retries for as long as an application is waiting.

    Attributes:
      error: the error of the failed attempt.
      scope: the cancel scope of the check, which the failure cancels.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.scope: trio.CancelScope = trio.CancelScope()

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        """See `trioanytls.ClientEvents`."""
        self.error = error
        self.scope.cancel()


async def check(client: trioanytls.Client, server: Destination, failures: ConnectFailures) -> None:
    """Wait for the server's first answer, over a connection that stays in the pool.

    Raises:
      ClientError: the server cannot be reached, or most likely rejects the password.
    """
    failures.scope.deadline = trio.current_time() + _CHECK_TIMEOUT
    try:
        with failures.scope, contextlib.suppress(trioanytls.ConnectFailed):
            await _wait_for_answer(client)
            return
        if failures.error is not None:
            raise failures.error
        raise ClientError(
            f"{server} did not answer within {_CHECK_TIMEOUT:g} s: a firewall may be blocking the connection"
        )
    except trioanytls.CertificateError as error:
        raise ClientError(
            f"{server}: {error}. If its certificate is self-signed, use the URI that the server printed, which contains"
            " pin=...; otherwise check the host name, or sni=..."
        ) from error
    except trioanytls.TLSError as error:
        raise ClientError(f"{server}: {error}. Check that it is an ANYTLS server, which requires TLS 1.3") from error
    except trioanytls.ConnectionClosed as error:
        # The protocol makes these two cases indistinguishable on purpose.
        raise ClientError(
            f"{server} closed the connection after the client sent the password: most likely the password is wrong, or"
            " it is not an ANYTLS server"
        ) from error
    except OSError as error:
        raise ClientError(os_errors.describe_connect_error(server, error)) from error


async def _wait_for_answer(client: trioanytls.Client) -> None:
    """Ping the server. One of the legacy format says its version unasked, which shows that it accepts the password.

    Raises:
      ConnectionClosed: the server has closed the connection.
    """
    try:
        await client.ping()
    except trioanytls.NotSupported:
        connection = client.newest_connection
        with trio.move_on_after(_VERSION_TIMEOUT):
            while connection is not None and connection.version is None:
                if connection.close_reason is not None:
                    raise connection.close_reason from None
                await trio.sleep(_POLL_INTERVAL)
