"""Serving the connections of local applications, so that no connection can end the others.

All front ends are served this way. Any error that an application, or the site at the other end of its connection, can
cause ends that connection alone, and is logged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from .errors import leaves
from .tcp_keepalive import keep_alive

_log = logging.getLogger("trioanytls.relay")

#: Serves one connection of an application. The connection is closed when it returns.
Serve = Callable[[trio.SocketStream], Awaitable[object]]

#: The most connections that a front end serves at the same time. Further ones wait in the system's queue. A client has
#: 1,024 streams at most. The rest is for connections that negotiate, or are told why there is no stream.
MOST_CONNECTIONS: Final = 4096
# How long to wait before accepting again after an error, in seconds.
_RETRY_INTERVAL: Final = 0.1
# The shortest time between two log records about such errors, in seconds.
_ERROR_INTERVAL: Final = 60.0
# Errors caused by the network and its peers. An application may reset its connection at any time, and so may the relay.
_EXPECTED: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


async def serve_front(
    what: str,
    serve: Serve,
    listeners: Sequence[trio.SocketListener],
    *,
    accepting: trio.CancelScope | None = None,
    most_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and serve each in a separate task, until cancelled.

    An exception of `serve` ends its connection and no other. It is logged, with a traceback unless it only means that a
    peer disconnected. Errors of accepting are logged, and connections are accepted again a little later.

    Args:
      what: the front end's name in the log.
      serve: serves one connection.
      listeners: closed at the end, or when `accepting` is cancelled.
      accepting: a scope for the listening alone. If it is cancelled, this returns when the last connection has ended.
      most_connections: how many connections are served at the same time, over all listeners.
      task_status: `nursery.start` returns the list of listeners.
    """
    slots = trio.Semaphore(most_connections)
    async with trio.open_nursery() as connections:
        with accepting or trio.CancelScope():
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(_accept, what, serve, listener, slots, connections)
                task_status.started(list(listeners))


async def _accept(
    what: str, serve: Serve, listener: trio.SocketListener, slots: trio.Semaphore, connections: trio.Nursery
) -> None:
    logged = -math.inf
    async with listener:
        while True:
            await slots.acquire()
            try:
                near = await listener.accept()
            except OSError as error:
                slots.release()
                # The usual cause is a lack of file descriptors. Any other error may be temporary as well.
                if trio.current_time() >= logged + _ERROR_INTERVAL:
                    logged = trio.current_time()
                    _log.error("%s: cannot accept connections for now: %s", what, _describe(error))
                await trio.sleep(_RETRY_INTERVAL)
            else:
                connections.start_soon(_serve_one, what, serve, near, slots)


async def _serve_one(what: str, serve: Serve, near: trio.SocketStream, slots: trio.Semaphore) -> None:
    keep_alive(near)
    try:
        try:
            await serve(near)
        finally:
            if near.socket.fileno() >= 0:
                await trio.aclose_forcefully(near)
    except* Exception as group:  # noqa: BLE001 - any error is logged, and ends this connection only
        log_failure(what, group)
    finally:
        slots.release()


def log_failure(what: str, failure: BaseException) -> None:
    """Log the exception that ended a connection or an association, with a traceback if it is a bug in this library."""
    found = leaves(failure)
    if all(isinstance(error, _EXPECTED) for error in found):
        _log.debug("%s: connection ended: %s", what, found[0])
    elif all(isinstance(error, (*_EXPECTED, OSError)) for error in found):
        [error, *_] = [error for error in found if isinstance(error, OSError)]
        _log.warning("%s: connection failed: %s", what, _describe(error))
    else:
        mistake = found[0] if len(found) == 1 else failure
        _log.error("%s: connection failed by an error in trioanytls: %r", what, mistake, exc_info=mistake)


def _describe(error: OSError) -> str:
    return str(error) if error.errno is None else os.strerror(error.errno)
