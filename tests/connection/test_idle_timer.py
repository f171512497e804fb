"""The sweep over idle streams: each expires on time, and is looked at a few times only."""

from __future__ import annotations

from typing import cast

import trioanytls
from trioanytls._connection.idle_timer import StreamIdleCheck
from trioanytls._connection.multiplexer import Multiplexer
from trioanytls._connection.stream_core import StreamCore


class Stream:
    """A stream that counts how often its time is looked at."""

    def __init__(self, last_frame: float) -> None:
        self.time = last_frame
        self.looks = 0

    @property
    def last_frame(self) -> float:
        self.looks += 1
        return self.time


class Streams:
    """The streams of a multiplexer, which notes those that expire."""

    config = trioanytls.Config(stream_idle_timeout=100)

    def __init__(self, streams: dict[int, Stream]) -> None:
        self.streams = streams
        self.expired: list[int] = []

    def expire_idle_stream(self, core: StreamCore) -> None:
        stream_id = next(key for key, stream in self.streams.items() if stream is cast(object, core))
        del self.streams[stream_id]
        self.expired.append(stream_id)


def run(check: StreamIdleCheck, now: float, until: float) -> float:
    """Run the check as `Timers` does. Return the time when it would run next."""
    while (due := check.deadline(now)) < until:
        now = max(now, due)
        if check.deadline(now) <= now:
            check.expired(now)
    return now


def test_each_stream_expires_on_time() -> None:
    streams = Streams({1: Stream(0.0), 2: Stream(10.0), 3: Stream(60.0)})
    check = StreamIdleCheck(cast(Multiplexer, streams))
    run(check, 0.0, 99.0)
    assert streams.expired == []
    run(check, 99.0, 100.5)
    assert streams.expired == [1]
    run(check, 100.5, 111.0)
    assert streams.expired == [1, 2]
    run(check, 111.0, 170.0)
    assert streams.expired == [1, 2, 3]


def test_a_frame_restarts_the_timer() -> None:
    streams = Streams({1: Stream(0.0)})
    check = StreamIdleCheck(cast(Multiplexer, streams))
    run(check, 0.0, 95.0)
    streams.streams[1].time = 95.0
    run(check, 95.0, 194.0)
    assert streams.expired == []
    run(check, 194.0, 196.0)
    assert streams.expired == [1]


def test_a_stream_that_is_gone_does_not_expire() -> None:
    streams = Streams({1: Stream(0.0)})
    check = StreamIdleCheck(cast(Multiplexer, streams))
    # The last sweep has seen it.
    run(check, 0.0, 99.0)
    del streams.streams[1]
    run(check, 99.0, 200.0)
    assert streams.expired == []


def test_each_stream_is_looked_at_a_few_times() -> None:
    many = {key: Stream(float(key % 100)) for key in range(1000)}
    streams = Streams(dict(many))
    run(StreamIdleCheck(cast(Multiplexer, streams)), 0.0, 250.0)
    assert len(streams.expired) == 1000
    assert max(stream.looks for stream in many.values()) < 20
