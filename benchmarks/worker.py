"""The process that is one side of one peer: ``python -m benchmarks.worker serve|drive PEER ...``.

The server prints one line, ``{"port": ...}``, and serves until its standard input ends. The client reads one JSON
object a line, ``{"work": ..., "seconds": ..., "quick": ..., "limit": ...}``, and answers each with one of

- ``{"figures": {...}}``, with ``"problem": reason`` if some figures are missing
- ``{"not_applicable": why}``, if the peer cannot do this work by its design
- ``{"timeout": true}``, if it has not finished within the limit
- ``{"error": what}``
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import resource
import sys
from typing import Any

import trio

from .handler import handle
from .peer import Credentials, Peer
from .peers import PEERS
from .work import WORKS, NotApplicable, Task

logger = logging.getLogger("benchmarks")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.worker")
    parser.add_argument("side", choices=("serve", "drive"))
    parser.add_argument("peer", choices=tuple(PEERS))
    parser.add_argument("--authority", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--crowded", action="store_true", help="allow 10,000 streams on a connection")
    return parser.parse_args()


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def describe(error: BaseException) -> str:
    """Describe an error in one line, a group by its first member."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0]


async def _serve(peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        _say({"port": await nursery.start(lambda task_status: peer.serve(handle, task_status=task_status))})
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
            async for _ in orders:
                pass
        nursery.cancel_scope.cancel()


async def _measure(peer: Peer, port: int, order: dict[str, Any]) -> dict[str, Any]:
    try:
        measure = WORKS[order["work"]].load()
        task = Task(peer, port, order["seconds"], order["quick"])
        with trio.fail_after(order["limit"]):
            figures = await measure(task)
        answer: dict[str, Any] = {"figures": {key: figure for key, figure in figures.items() if math.isfinite(figure)}}
        if task.problems:
            answer["problem"] = "; ".join(task.problems)
        return answer
    except NotApplicable as reason:
        return {"not_applicable": str(reason)}
    except trio.TooSlowError:
        return {"timeout": True}
    except Exception as error:
        if isinstance(error, ExceptionGroup) and error.subgroup(trio.TooSlowError):
            return {"timeout": True}
        logger.exception("work (%s) failed", order["work"])
        return {"error": describe(error)}


async def _drive(peer: Peer, port: int) -> None:
    pending = b""
    _say({"ready": True})
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
        async for data in orders:
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                _say(await _measure(peer, port, json.loads(line)))


def main() -> None:
    """Run one side of one peer."""
    arguments = _arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        credentials = Credentials(arguments.authority, arguments.certificate, arguments.key)
        peer = PEERS[arguments.peer].load()(credentials, crowded=arguments.crowded)
    except Exception as error:
        logger.exception("cannot load peer %s", arguments.peer)
        _say({"unavailable": describe(error)})
        return
    if arguments.side == "serve":
        trio.run(_serve, peer)
    else:
        trio.run(_drive, peer, arguments.port)


if __name__ == "__main__":
    main()
