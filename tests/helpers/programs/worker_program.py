"""A program that serves with `serve_workers` and executes commands from its standard input, one in each line.

Run by `test_workers`. All of its processes inherit its standard output, which ends when all of them have exited.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import ssl
import sys

import attrs
import trio

import trioanytls
from trioanytls._workers import child, handle

HOST = "127.0.0.1"
USERS = {"alice": "password"}


async def handler(stream: trioanytls.Stream) -> None:
    """Send the id of this process, then echo."""
    await stream.send_all(b"%d\n" % os.getpid())
    async for data in stream:
        await stream.send_all(data)


async def serves(certificate: str, port: int, control: trioanytls.ServerControl) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    await trioanytls.serve(
        handler,
        port,
        host=HOST,
        ssl_context=context,
        users=USERS,
        protocols=("anytls1", "legacy"),
        reuse_port=True,
        control=control,
    )


async def dies(_certificate: str, _port: int, _control: trioanytls.ServerControl) -> None:
    raise RuntimeError("this worker does not work")


async def stays(certificate: str, port: int, control: trioanytls.ServerControl) -> None:
    """Serve, and ignore all requests to stop."""
    # The limit of this process, for the test in which no parent is left to kill it.
    child._GRACE = 0.2
    with trio.CancelScope(shield=True):
        await serves(certificate, port, control)
        await trio.sleep_forever()


async def command(line: list[str], control: trioanytls.WorkersControl, scope: trio.CancelScope) -> object:
    match line:
        case ["drain", timeout]:
            await control.drain(float(timeout))
        case ["cancel"]:
            scope.cancel()
        case ["snapshot", timeout]:
            return attrs.asdict(await control.refresh(float(timeout)))
        case ["users", name, password]:
            control.replace_users({name: password})
        case ["certificate", certificate]:
            control.replace_certificate(certificate)
        case _:
            raise ValueError(f"unknown command {line}")
    return None


async def execute_commands(control: trioanytls.WorkersControl, scope: trio.CancelScope) -> None:
    """Execute the commands, and print each answer as a line of JSON."""
    buffer = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for data in stdin:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    answer = await command(line.decode().split(), control, scope)
                except (ValueError, OSError) as error:
                    answer = f"{type(error).__name__}: {error}"
                print(json.dumps(answer), flush=True)


async def main(worker: str, certificate: str, workers: int, drain_timeout: float, grace: float) -> None:
    handle._GRACE = grace
    control = trioanytls.WorkersControl()
    scope = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[int]) -> None:
        with scope:
            await trioanytls.serve_workers(
                functools.partial(globals()[worker], certificate),
                0,
                host=HOST,
                workers=workers,
                drain_timeout=drain_timeout,
                control=control,
                task_status=task_status,
            )
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        print(await nursery.start(serve), flush=True)
        nursery.start_soon(execute_commands, control, scope)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s %(message)s")
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
