"""Messages between workers and their parent, valid and invalid ones."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from trioanytls import ServerStats
from trioanytls._workers import ipc

from ..helpers.worker_tasks import (
    Tasks,
    running_workers,
    serves,
    speaker,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


def raw(data: bytes) -> bytes:
    return struct.pack("!Q", len(data)) + data


GOOD = {"kind": "done", "what": "snapshot", "number": 1, "error": None}


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("!Q", 2**60),
        struct.pack("!Q", 1024 * 1024 + 1),
        raw(b""),
        raw(b"\xff"),
        raw(b"["),
        raw(b"[" * 500_000),
        raw(b"[]"),
        raw(b"{}"),
        {"kind": "end"},
        {"kind": "end", "stats": None},
        {"kind": "end", "stats": {"connections": "1"}},
        {"kind": "end", "stats": {"connections": True}},
        {"kind": "end", "stats": {"connections": -1}},
        {"kind": "end", "stats": {"connections": 1.5}},
        {"kind": "end", "stats": {"draining": 0}},
        {"kind": "end", "stats": {"connections_closed": 1}},
        {"kind": "end", "stats": {"connections_closed": {"LOST": "1"}}},
        {"kind": "done"},
        {"kind": "done", "what": [], "number": 1, "error": None},
        {"kind": "done", "what": "other", "number": 1, "error": None},
        {"kind": "done", "what": "users", "number": "1", "error": None},
        {"kind": "done", "what": "users", "number": 1, "error": 1},
        GOOD,
    ],
    ids=lambda said: repr(said)[:60],
)
async def test_a_worker_that_sends_an_invalid_message_is_killed(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, said: bytes | ipc.Message
) -> None:
    main, tasks.main = tasks.main, speaker(said)
    async with running_workers(serves) as control:
        tasks.main = main
        await trio.sleep(1)
        assert tasks.started[0].exit_status == "killed by SIGKILL"
        assert "ERROR" in caplog.text
        assert "invalid message from worker, killing it" in caplog.text
        assert await control.refresh() == ServerStats(connections=1, authentications=10)


async def test_unknown_counters_are_ignored(tasks: Tasks, autojump_clock: Clock) -> None:
    """The library may have been updated since the parent was started."""
    stats = {"connections": 3, "moons": 1, "streams_refused": {"drain": 2}}
    assert ipc.unpack_stats(stats) == ServerStats(connections=3, streams_refused={"drain": 2})


def test_counters_are_unchanged_by_a_message() -> None:
    values: dict[str, Any] = {}
    for number, attribute in enumerate(attrs.fields(ServerStats), start=1):
        default = getattr(ServerStats(), attribute.name)  # type: ignore[attr-defined]  # of the class that the test uses
        values[attribute.name] = True if isinstance(default, bool) else number if default == 0 else {"a": number}  # type: ignore[attr-defined]  # of the class that the test uses
    stats = ServerStats(**values)
    assert ipc.unpack_stats(json.loads(json.dumps(ipc.pack_stats(stats)))) == stats


async def test_a_channel_that_is_closed_or_broken_says_so() -> None:
    near, far = socket.socketpair()
    channel = ipc.Channel.over(near, 1000)
    # Unread bytes make the kernel reset the other end, here when it closes.
    await channel.send({"kind": "drain"})
    far.close()
    for _ in range(2):
        with pytest.raises(ipc.ChannelClosed):
            await channel.receive()
    with pytest.raises(ipc.ChannelClosed):
        await channel.send({"kind": "drain"})
    await channel._stream.aclose()
    with pytest.raises(ipc.ChannelClosed):
        await channel.receive()
