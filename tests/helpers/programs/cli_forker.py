"""Fork a process of the command line for each request, with all modules imported already.

Starting an interpreter and importing the command line takes 0.3 s of processor time, and forking takes a hundredth.
`tests.helpers.forked_cli` starts this program, with the interpreter's options for the command line. Its first argument
is the descriptor of a socket. It ends when the other end of this socket is closed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import sys
from typing import Any

import trioanytls.cli.client.run
import trioanytls.cli.main
import trioanytls.cli.server.run  # noqa: F401 - the commands import it later

#: The maximum size of a request, which contains the environment.
MAX_REQUEST = 1 << 17


def prepare(control: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
    """Make this new process what a command finds after its start."""
    os.setsid()
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["trioanytls", *request["arguments"]]
    # From now on, its process id is that of a session that can be killed.
    control.send(json.dumps(os.getpid()).encode())
    control.close()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    # The processes share the memory of the imported modules.
    gc.freeze()
    while True:
        data, streams, _, _ = socket.recv_fds(control, MAX_REQUEST, 3)
        if not data:
            control.close()
            return
        request = json.loads(data)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            control.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        if not os.fork():
            prepare(control, request, streams)
            break
        for stream in streams:
            os.close(stream)
    # As `python -m trioanytls` does.
    runpy.run_module("trioanytls", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
