"""Steering a server that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from trioanytls._checks import check_type, check_users

from .stats import ServerStats


class ControllableServer(Protocol):
    """A server, as its control sees it."""

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `ServerControl.drain`."""

    def replace_users(self, users: Mapping[str, str]) -> None:
        """See `ServerControl.replace_users`."""

    def replace_certificate(
        self, certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None, password: str | None
    ) -> None:
        """See `ServerControl.replace_certificate`."""

    def snapshot(self) -> ServerStats:
        """See `ServerControl.snapshot`."""

    @property
    def drain_timeout(self) -> float:
        """The default."""


class NotRunningError(RuntimeError):
    """No server has this control yet."""

    def __init__(self, text: str = "no server has this control yet") -> None:
        super().__init__(text)


class ServerControl:
    """The object through which a running server is steered: make one, and give it to `serve` as `control`.

    It serves one server at a time. It may be used from any task of the same event loop, not from another thread.

    Raises:
      RuntimeError: from each method, where no server has it yet.
    """

    def __init__(self) -> None:
        self._server: ControllableServer | None = None
        self._running = False

    def __repr__(self) -> str:
        return f"<trioanytls.ServerControl {'of a running server' if self._running else 'without a running server'}>"

    @property
    def running(self) -> bool:
        """Whether a server runs that has this control."""
        return self._running

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - not how long the call may take
        """Stop the server gracefully; returns when it has stopped, and `serve` returns then, too.

        No new connection is accepted and no new stream; connections without streams are closed with CLOSE 6 at once,
        the others when their last handler has returned. After `timeout` seconds (default: `Config.drain_timeout`), what
        is left is cancelled, and closed with CLOSE 6 as well. A second call shortens the time, if anything.

        Not to be awaited by a handler: it would wait for itself.

        Cancellation: the draining goes on.
        """
        check_type("timeout", timeout, int, float, optional=True)
        server = self._get()
        await server.drain(server.drain_timeout if timeout is None else timeout)

    def replace_users(self, users: Mapping[str, str]) -> None:
        """Exchange the users, name -> password, for all connections that come from now on; others are not touched.

        Raises:
          ValueError: there is none, or two have the same password. The old ones remain.
        """
        check_users(users)
        self._get().replace_users(users)

    def replace_certificate(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        """Exchange the certificate for all TLS handshakes that begin from now on.

        Args:
          certificate: a file with the certificate chain in PEM, see `ssl.SSLContext.load_cert_chain`.
          key: a file with the private key; default: it is in the same one.
          password: what the key is encrypted with.

        Raises:
          ssl.SSLError, OSError: the files cannot be used. The old certificate remains. So it does where the new one's
            key is of another kind (RSA, ECDSA): the TLS library keeps a certificate of each kind, and shows clients the
            old one if they prefer it. Only a new server shows them the new one.
        """
        self._get().replace_certificate(certificate, key, password)

    def snapshot(self) -> ServerStats:
        """The counters as they stand; when the server has stopped, its last ones."""
        return self._get().snapshot()

    def _get(self) -> ControllableServer:
        if self._server is None:
            raise NotRunningError
        return self._server

    def _attach(self, server: ControllableServer) -> None:
        if self._running:
            raise RuntimeError("this control steers another server")
        self._server = server
        self._running = True

    def _listens(self) -> None:
        """The server accepts connections from now on; for controls that do something then."""

    def _detach(self) -> None:
        self._running = False
