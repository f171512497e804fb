"""Control of a running server: draining, other users, another certificate, counters."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

import trio

from trioanytls._checks import check_type, check_users
from trioanytls._protocol.exceptions import AnyTLSError

from .stats import ServerStats

_Server = TypeVar("_Server")


class Control(Protocol):
    """The methods that `ServerControl` and `WorkersControl` have in common, for programs that take either."""

    @property
    def running(self) -> bool:
        """True while a server that has this control is running."""

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - not how long the call may take
        """Stop the server gracefully. Return when it has stopped."""

    def replace_users(self, users: Mapping[str, str]) -> None:
        """Replace the users, name -> password, for all connections that are accepted from now on."""

    def replace_certificate(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        """Replace the certificate for all TLS handshakes that begin from now on."""

    def snapshot(self) -> ServerStats:
        """Return the counters, as far as they are known in this process."""

    async def refresh(self) -> ServerStats:
        """Return the counters, after asking all processes that serve."""


class ControllableServer(Protocol):
    """The part of a server that its control uses."""

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
        """The default timeout of `drain`, in seconds."""


class NotRunningError(AnyTLSError, RuntimeError):
    """The control has not been attached to a server yet."""

    def __init__(self, text: str = "no server is attached to this control yet") -> None:
        super().__init__(text)


class ControlLink(Generic[_Server]):
    """The link from a control to the server that has it.

    Attributes:
      running: true while a server is attached.
    """

    def __init__(self) -> None:
        self.running = False
        self._server: _Server | None = None

    @property
    def server(self) -> _Server:
        """The server, also when it has stopped.

        Raises:
          NotRunningError: no server has been attached yet.
        """
        if self._server is None:
            raise NotRunningError
        return self._server

    @contextlib.contextmanager
    def attach(self, server: _Server) -> Iterator[None]:
        """Attach a server while the block runs.

        Raises:
          RuntimeError: another one is attached.
        """
        if self.running:
            raise RuntimeError("this control is in use by another server")
        self._server = server
        self.running = True
        try:
            yield
        finally:
            self.running = False

    def listening(self) -> None:
        """Note that the server accepts connections from now on. Workers override this."""


class ServerControl:
    """The control of a running server: create one and pass it to `serve` as `control`.

    It is attached to one server at a time. It may be used from any task of the same event loop, not from another
    thread.

    Raises:
      NotRunningError: from each method, if it has not been attached to a server yet.
    """

    def __init__(self) -> None:
        self._link: ControlLink[ControllableServer] = ControlLink()

    def __repr__(self) -> str:
        return f"<trioanytls.ServerControl {'of a running server' if self.running else 'without a running server'}>"

    @property
    def running(self) -> bool:
        """True while a server that has this control is running."""
        return self._link.running

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - not how long the call may take
        """Stop the server gracefully. Return when it has stopped; then `serve` returns too.

        No new connections are accepted. A client with the extension `goaway` is told first, and the streams that it has
        opened before are served. Further streams are refused (extensions: 5). Connections without streams are then
        closed with CLOSE 6, the others when their last handler has returned. After `timeout` seconds (default:
        `Config.drain_timeout`), the remaining handlers are cancelled and their connections closed with CLOSE 6. A
        second call can shorten the time, but not extend it. Legacy has no CLOSE: those connections end TLS.

        A handler must not await this: it would wait for itself.

        Cancellation: the draining continues.
        """
        check_type("timeout", timeout, int, float, optional=True)
        server = self._link.server
        await server.drain(server.drain_timeout if timeout is None else timeout)

    def replace_users(self, users: Mapping[str, str]) -> None:
        """Replace the users, name -> password, for all connections that are accepted from now on.

        Connections that are open are not affected.

        Raises:
          ValueError: `users` is empty, or two users have the same password. The old users remain.
        """
        check_users(users)
        self._link.server.replace_users(users)

    def replace_certificate(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        """Replace the certificate for all TLS handshakes that begin from now on.

        Args:
          certificate: a file with the certificate chain in PEM, see `ssl.SSLContext.load_cert_chain`.
          key: a file with the private key; default: it is in the same file.
          password: the password that the key is encrypted with.

        Raises:
          ssl.SSLError, OSError: the files are unusable, and the old certificate remains. The same applies if the new
            certificate's key is of another kind (RSA, ECDSA): the TLS library keeps one certificate of each kind, and
            shows the old one to clients that prefer it. Only a restarted server shows the new one.
        """
        self._link.server.replace_certificate(certificate, key, password)

    def snapshot(self) -> ServerStats:
        """Return the counters now. When the server has stopped, return its last counters."""
        return self._link.server.snapshot()

    async def refresh(self) -> ServerStats:
        """Return the same as `snapshot`; see `WorkersControl.refresh`."""
        await trio.lowlevel.checkpoint()
        return self.snapshot()


def link_of(control: ServerControl) -> ControlLink[ControllableServer]:
    """Return the link of a control. `ServerControl` is public, its link is not."""
    return control._link  # noqa: SLF001 - the only access from outside of the class
