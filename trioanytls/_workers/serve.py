"""`serve_workers`: several server processes on one port."""

from __future__ import annotations

import os
import pickle

import trio

from trioanytls._checks import check_callable, check_type
from trioanytls._transport.listeners import reserve_port

from .child import WorkerFunction
from .control import WorkersControl, link_of
from .supervisor import Supervisor


async def serve_workers(
    worker: WorkerFunction,
    port: int,
    *,
    host: str | None = None,
    workers: int | None = None,
    drain_timeout: float = 30.0,
    control: WorkersControl | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve in several processes on one port, until cancelled or drained.

    Each process runs `await worker(port, control)`, with a `ServerControl` of its own. The function must call `serve`
    with both, with the same `host` as here, and with `reuse_port=True`. It may do other things too, and has to set up
    logging. A worker is replaced if its function returns or raises (the exception is logged, `trioanytls.workers`), or
    if it is killed. The delay is half a second, and increases up to 30 seconds if that happens repeatedly.

    SIGTERM drains the worker that receives it, and the worker is replaced. SIGINT (Ctrl-C) has no effect on workers. If
    the parent is killed, the workers drain and exit. The processes are started with the "spawn" method of
    `multiprocessing`, so the program must call this under `if __name__ == "__main__":`.

    The operating system distributes the connections. Linux does so by the addresses and ports of both ends. Connections
    that were assigned to a worker but not accepted by it yet are lost when the worker exits.

    Args:
      worker: an async function of a module, or a `functools.partial` of one: `pickle` must be able to pass it to a
        process.
      port: the TCP port; 0 for one that the system chooses, the same one on all addresses.
      host: the address to listen on; default: all addresses.
      workers: the number of processes; default: one for each processor that this process may use.
      drain_timeout: how long connections may continue when the workers stop, in seconds. A worker that has not exited
        10 seconds after that is killed.
      control: an object to control the workers with.
      task_status: `nursery.start` returns the port as soon as each worker listens or has exited, and after 30 seconds
        in any case.

    Raises:
      OSError: it is impossible to listen on the port, or the system has no `SO_REUSEPORT`.
      TypeError: an argument has the wrong type, or `worker` cannot be pickled.
      ValueError: `workers` or `drain_timeout` is out of range.
      RuntimeError: `control` is in use by other workers.

    Cancellation: the workers drain, within `drain_timeout` and 10 more seconds. `WorkersControl.drain` can shorten
    that.
    """
    check_callable("worker", worker)
    check_type("workers", workers, int, optional=True)
    check_type("drain_timeout", drain_timeout, int, float)
    check_type("control", control, WorkersControl, optional=True)
    count = _processors() if workers is None else workers
    if count < 1:
        raise ValueError(f"workers must be at least 1, not {count!r}")
    if not drain_timeout >= 0:
        raise ValueError(f"drain_timeout must be a non-negative number of seconds, not {drain_timeout!r}")
    try:
        function = pickle.dumps(worker)
    except Exception as error:
        raise TypeError(f"cannot pickle the worker function for another process: {error}") from error
    reserved = await reserve_port(port, host)
    try:
        supervisor = Supervisor(function, reserved[0].getsockname()[1], drain_timeout)
        with supervisor.attach_control(link_of(WorkersControl() if control is None else control)):
            await supervisor.run(count, task_status)
    finally:
        for one in reserved:
            one.close()


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
