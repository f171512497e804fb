"""The multiplexer: its events and hooks, closing, and the order in which an observer learns of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from attrs import evolve

import trioanytls
from trioanytls._connection import close_reason
from trioanytls._connection.close_reason import CloseReason
from trioanytls._connection.multiplexer import Hooks, Multiplexer
from trioanytls._connection.send_queue import SendQueue
from trioanytls._connection.stream_core import StreamEnd
from trioanytls._connection.writer import Writer
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event
from trioanytls._protocol.interface import WireProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme

from ..helpers.raw_peer import SCHEME


class Recorder:
    """The hooks and the observer of a multiplexer, which record their calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def hooks(self) -> Hooks:
        def record(name: str) -> None:
            self.calls.append((name,))

        def before_close(_connection: object, reason: CloseReason) -> CloseReason:
            record("before_close")
            return evolve(reason, announcement=None)

        def selected(_connection: object, protocol: object) -> WireProtocol:
            record("selected")
            assert isinstance(protocol, ClientProtocol)
            return protocol

        return Hooks(
            stream_opened=lambda _, stream_id, now: self.calls.append(("stream_opened", stream_id, now)),
            acknowledge=lambda _, stream_id: b"ACK",
            refuse=lambda _, stream_id, reason: (b"RST",),
            stream_expired=lambda _, stream_id, end: self.calls.append(("stream_expired", stream_id, end)),
            authenticated=lambda _, now: self.calls.append(("authenticated", now)),
            not_authenticated=lambda _, error, unconsumed: record("not_authenticated"),
            violated=lambda _, error, unconsumed: record("violated"),
            transport_lost=lambda _, error: record("transport_lost"),
            before_close=before_close,
            selected=selected,
        )

    def negotiated(self) -> None:
        self.calls.append(("negotiated",))

    def stream_accepted(self, stream_id: int) -> None:
        self.calls.append(("stream_accepted", stream_id))

    def stream_gone(self, stream_id: int) -> None:
        self.calls.append(("stream_gone", stream_id))

    def scheme_received(self, scheme: PaddingScheme) -> None:
        self.calls.append(("scheme_received", scheme))

    def going_away(self) -> None:
        self.calls.append(("going_away",))

    def closing(self) -> None:
        self.calls.append(("closing",))


def multiplexer_with(recorder: Recorder) -> Multiplexer:
    """Make a client's multiplexer with two open streams."""
    protocol = ClientProtocol("password", SCHEME)
    protocol.handshake_done()
    transport, _ = trio.testing.memory_stream_pair()
    send_queue = SendQueue(10_000)
    multiplexer = Multiplexer(
        protocol, trioanytls.Config(), send_queue, Writer(transport, send_queue, None), recorder, recorder.hooks()
    )
    multiplexer.observer = recorder
    for _ in range(2):
        stream_id, _frame = protocol.open_stream()
        multiplexer.add_stream(stream_id, trio.current_time(), by_peer=True)
    return multiplexer


async def test_every_event_but_data_has_a_handler() -> None:
    assert set(Multiplexer._HANDLERS) == set(Event) - {Event.DATA}


@pytest.mark.parametrize(
    ("event", "stream_id", "payload", "calls"),
    [
        (Event.REFRESHED, 1, None, []),
        (Event.OPENED, 5, None, [("stream_opened", 5, 7.0)]),
        (Event.ACKNOWLEDGED, 1, None, [("stream_accepted", 1)]),
        (Event.ENDED, 1, None, [("stream_gone", 1)]),
        (Event.REFUSED, 2, None, [("stream_gone", 2)]),
        (Event.PONG, 0, None, []),
        (Event.AUTHENTICATED, 0, "alice", [("authenticated", 7.0)]),
        (Event.NEGOTIATED, 0, None, [("negotiated",)]),
        (Event.SELECTED, 0, ClientProtocol("password", SCHEME), [("selected",)]),
        (Event.SCHEME, 0, SCHEME, [("scheme_received", SCHEME)]),
        (
            Event.LEFT,
            0,
            CloseCode.NO_ERROR,
            [("before_close",), ("closing",), ("stream_gone", 1), ("stream_gone", 2)],
        ),
        (Event.ALERTED, 0, "text", [("before_close",), ("closing",), ("stream_gone", 1), ("stream_gone", 2)]),
    ],
)
async def test_an_event_reaches_hooks_and_observer(
    event: Event, stream_id: int, payload: object, calls: list[tuple[object, ...]]
) -> None:
    recorder = Recorder()
    multiplexer = multiplexer_with(recorder)
    multiplexer.handle(event, stream_id, payload, 7.0)
    assert recorder.calls == calls
    assert multiplexer.is_closing is multiplexer.peer_left is (event in (Event.LEFT, Event.ALERTED))
    assert multiplexer.peer_gone.is_set() is multiplexer.peer_left


@pytest.mark.parametrize(("event", "end"), [(Event.ENDED, StreamEnd.PEER), (Event.REFUSED, StreamEnd.REFUSED)])
async def test_a_stream_that_ends_unread_is_remembered(event: Event, end: StreamEnd) -> None:
    multiplexer = multiplexer_with(Recorder())
    unread, empty = multiplexer.streams[1], multiplexer.streams[2]
    unread.receive_data(b"unread", 1.0)
    for stream_id in (1, 2):
        multiplexer.handle(event, stream_id, None, 1.0)
    assert (unread.ended, empty.ended) == (end, end)
    assert set(multiplexer.unread) == {unread}
    assert not multiplexer.streams


async def test_the_first_reason_to_close_counts() -> None:
    recorder = Recorder()
    multiplexer = multiplexer_with(recorder)
    first, second = multiplexer.streams.values()
    ping = multiplexer.send_ping(trio.current_time())
    multiplexer.close(close_reason.close_with(CloseCode.IDLE_TIMEOUT, "the first one"))
    multiplexer.close(close_reason.closed_locally())
    assert multiplexer.close_reason is not None
    assert multiplexer.close_reason.reason == "the first one"
    # The hook has the last word on what the peer is told.
    assert multiplexer.send_queue.last_frame is None
    assert multiplexer.closing.is_set()
    assert ping.done.is_set()
    assert first.ended is second.ended is StreamEnd.CONNECTION
    assert recorder.calls.count(("closing",)) == 1
    assert not multiplexer.is_closed_locally
    assert not multiplexer.is_handed_over
    with pytest.raises(trioanytls.ConnectionClosed, match="the first one"):
        multiplexer.check_open()


async def test_a_stream_that_a_timer_closes_is_counted_and_reset() -> None:
    recorder = Recorder()
    multiplexer = multiplexer_with(recorder)
    core = multiplexer.streams[1]
    multiplexer.expire_stream(core, StreamEnd.STALLED)
    assert recorder.calls == [("stream_expired", 1, StreamEnd.STALLED), ("stream_gone", 1)]
    assert multiplexer.send_queue.pending_control == 1
    # A late end by the application sends no second RST.
    multiplexer.reset_stream(core)
    assert multiplexer.send_queue.pending_control == 1
