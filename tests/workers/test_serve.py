"""The arguments of `serve_workers`, and its port."""

from __future__ import annotations

import functools
import math
import socket
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import ServerControl, WorkersControl

from ..conftest import HOST
from ..helpers.worker_tasks import (
    Tasks,
    running_workers,
    serves,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": -1}, {"drain_timeout": -1}, {"drain_timeout": math.nan}]
)
async def test_options_that_are_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        await trioanytls.serve_workers(serves, 0, **options)


async def test_a_local_function() -> None:
    async def local(_port: int, _control: ServerControl) -> None: ...

    with pytest.raises(TypeError, match="cannot pickle the worker function"):
        await trioanytls.serve_workers(local, 0)


async def test_a_port_that_is_in_use() -> None:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        with pytest.raises(OSError, match="in use"):
            await trioanytls.serve_workers(serves, listener.socket.getsockname()[1], host=HOST)


async def test_a_system_without_reuse_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(OSError, match="SO_REUSEPORT"):
        await trioanytls.serve_workers(serves, 0)


@pytest.mark.parametrize("affinity", [True, False])
async def test_there_is_a_worker_for_each_processor(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, affinity: bool
) -> None:
    if affinity:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    else:
        monkeypatch.delattr("os.sched_getaffinity", raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 3)
    async with running_workers(serves, workers=None):
        assert len(tasks.started) == 3


async def test_the_port_is_reserved_and_released(tasks: Tasks) -> None:
    control = WorkersControl()
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve_workers, serves, 0, host=HOST, workers=1, control=control)
        port = await nursery.start(serve)
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(port, host=HOST)
        await control.drain(1)
    async with (await trio.open_tcp_listeners(port, host=HOST))[0]:
        pass
