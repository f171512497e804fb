"""The question to the server at the start: whether it is there, and accepts the password."""

from __future__ import annotations

import contextlib
from typing import Final

import trio

import trioanytls
from trioanytls.cli.common.errors import ClientError
from trioanytls.destination import Destination

# How long the first question to the server may take, in seconds: longer than making a connection may.
_CHECK_TIMEOUT: Final = 15.0


class ConnectFailures(trioanytls.ClientEvents):
    """Lets the check at the start end with the first attempt to connect that fails.

    Later on, the client tries again for as long as applications wait.

    Attributes:
      error: the failure.
      scope: is cancelled by it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.scope = trio.CancelScope()

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        """See `trioanytls.ClientEvents`."""
        self.error = error
        self.scope.cancel()


async def check(client: trioanytls.Client, server: Destination, failures: ConnectFailures) -> None:
    """Ask the server once whether it is there and accepts the password, over a connection that is used afterwards.

    Raises:
      Failed: it does not, as far as can be known.
    """
    failures.scope.deadline = trio.current_time() + _CHECK_TIMEOUT
    try:
        with failures.scope, contextlib.suppress(trioanytls.ConnectFailed):
            await client.ping()
            return
        if failures.error is not None:
            raise failures.error
        raise ClientError(f"{server} has not answered in time: a firewall may be blocking the connection")
    except trioanytls.CertificateError as error:
        raise ClientError(
            f"{server}: {error}. For a server with a self-signed certificate, use the URI that it printed, with pin=..."
            " in it; otherwise check the name, or sni=..."
        ) from error
    except trioanytls.TLSError as error:
        raise ClientError(f"{server}: {error}. Is it an ANYTLS server? They speak TLS 1.3") from error
    except trioanytls.ConnectionClosed as error:
        # Nobody can tell these apart, which is the protocol's intention.
        raise ClientError(
            f"{server} closed the connection without a word after the password: most likely it does not know the"
            " password, or it is not an ANYTLS server"
        ) from error
    except OSError as error:
        hint = "Check address and port, and whether the server runs"
        raise ClientError(f"{server} cannot be reached: {error.strerror or error}. {hint}") from error
