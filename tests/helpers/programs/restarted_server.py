"""A server that is killed and started again, on the same port. Run by `test_pool_soak`, which commands it by lines.

`start` starts it and answers with its port, `kill` kills it and answers when it is dead. Each is a process of its own,
which begins in a moment, since all that it needs is loaded already.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys

import trio

import trioanytls
from trioanytls.testing import echo


async def serve(port: int, certificate: str, lifeline: int) -> None:
    """Serve until killed, or until the parent, which has the other end of `lifeline`, exits."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            await trioanytls.serve(
                echo,
                port,
                host="127.0.0.1",
                ssl_context=context,
                users={"alice": "password"},
                task_status=task_status,
            )

        listeners = await nursery.start(run)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.lowlevel.wait_readable(lifeline)
        nursery.cancel_scope.cancel()


def main(port: int, certificate: str) -> None:
    server = 0
    lifeline, our_end = os.pipe()
    for command in sys.stdin:
        if command == "start\n":
            server = os.fork()
            if not server:
                os.close(our_end)
                trio.run(serve, port, certificate, lifeline)
                return
        else:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            print("dead", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
