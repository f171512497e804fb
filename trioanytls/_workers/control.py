"""Control of the workers of `serve_workers`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from trioanytls._checks import check_type, check_users
from trioanytls._protocol.credentials import UserTable
from trioanytls._server.control import ControlLink
from trioanytls._server.stats import ServerStats

from .supervisor import Supervisor


class WorkersControl:
    """The control of the workers of `serve_workers`: create one and pass it as `control`.

    It has the methods of `ServerControl`, so that a program can use either as a `Control`. It may be used from any task
    of the same event loop, not from another thread.

    Changes are checked here, and take effect in each worker as soon as it has received them. A worker that cannot apply
    a change, or has not confirmed it within 5 seconds, is logged (`trioanytls.workers`).

    Raises:
      NotRunningError: from each method, if it has not been passed to `serve_workers` yet.
    """

    def __init__(self) -> None:
        self._link: ControlLink[Supervisor] = ControlLink()

    def __repr__(self) -> str:
        return f"<trioanytls.WorkersControl {'of running workers' if self.running else 'without running workers'}>"

    @property
    def running(self) -> bool:
        """True while `serve_workers` is running with this control."""
        return self._link.running

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - not how long the call may take
        """Stop all workers gracefully, see `ServerControl.drain`. Return when they have exited.

        Args:
          timeout: how long connections may continue, in seconds; default: the `drain_timeout` of `serve_workers`. A
            second call can shorten the time, but not extend it.

        Cancellation: the draining continues.
        """
        check_type("timeout", timeout, int, float, optional=True)
        supervisor = self._link.server
        supervisor.stop(supervisor.drain_timeout if timeout is None else timeout)
        await supervisor.stopped.wait()

    def replace_users(self, users: Mapping[str, str]) -> None:
        """Replace the users in all workers, and in those that are started later; see `ServerControl.replace_users`.

        Raises:
          ValueError: `users` is empty, or two users have the same password. The old users remain.
        """
        check_users(users)
        supervisor = self._link.server
        # Validate in the parent, not in each worker.
        UserTable(users)
        supervisor.replace("users", dict(users))

    def replace_certificate(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        """Replace the certificate in all workers; see `ServerControl.replace_certificate`.

        Each worker reads the files itself, one that is started later when it starts. If a worker cannot use them, that
        is logged, and the worker keeps the certificate that it has.

        Raises:
          ssl.SSLError, OSError: the files are unusable. The old certificate remains.
        """
        supervisor = self._link.server
        # Without a password, OpenSSL would ask for one on the terminal.
        secret = password or ""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, secret)
        supervisor.replace("certificate", [_absolute(certificate), None if key is None else _absolute(key), secret])

    def snapshot(self) -> ServerStats:
        """Return the sum of the counters of all workers, including those that have exited.

        Workers report their counters once a second, so the result can be that old. For a worker that has stopped
        reporting, its last counters are used, without its open connections and streams; that is logged. The last report
        of a worker that was killed counts as well. So the counters never decrease.
        """
        return self._link.server.snapshot()

    async def refresh(self, timeout: float = 5.0) -> ServerStats:  # noqa: ASYNC109 - a scope would discard all answers
        """Ask all workers for their counters, and return the same as `snapshot` then.

        Args:
          timeout: how long to wait for the workers, in seconds. A worker that does not answer within that time is
            treated as one that has stopped reporting.
        """
        check_type("timeout", timeout, int, float)
        return await self._link.server.refresh(timeout)


def link_of(control: WorkersControl) -> ControlLink[Supervisor]:
    """Return the link of a control. `WorkersControl` is public, its link is not."""
    return control._link  # noqa: SLF001 - the only access from outside of the class


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return the path for a process whose current directory may be another one."""
    return os.path.abspath(path)  # noqa: PTH100 - accepts every kind of path
