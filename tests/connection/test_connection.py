"""Connections: the first frames, negotiation, violations, errors, and leftovers."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import RecordedTransport, StreamQueue, echo, memory_connection_pair

from ..conftest import Connecting, Serving
from ..helpers.extensions import EITHER_WAY, extending
from ..helpers.raw_peer import HELLO, PINGPONG, SERVER_NEGO, RawPeer, data, raw_client, raw_server
from ..helpers.server_harness import eventually


async def test_a_program_as_in_the_api(serving: Serving, connecting: Connecting) -> None:
    async with serving() as port, connecting(port) as connection:
        async with await connection.open_stream() as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        assert await connection.ping() >= 0
        assert connection.version == 1
        assert not connection.closed
        assert connection.close_reason is None
        assert connection.user is None
    assert connection.closed
    assert connection.close_reason is not None
    assert connection.close_reason.code is trioanytls.CloseCode.NO_ERROR


async def test_a_closed_connection_is_freed_without_the_garbage_collector(
    serving: Serving, connecting: Connecting
) -> None:
    ends: list[weakref.ref[trioanytls.Connection]] = []

    async def remember_and_echo(stream: trioanytls.Stream) -> None:
        ends.append(weakref.ref(stream.connection))
        await echo(stream)

    async def exchange(port: int) -> None:
        async with connecting(port) as connection, await connection.open_stream() as stream:
            ends.append(weakref.ref(connection))
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"

    async with serving(remember_and_echo) as port:
        gc.disable()
        try:
            await exchange(port)
            await eventually(lambda: len(ends) == 2 and all(end() is None for end in ends))
        finally:
            gc.enable()


async def test_the_server_knows_user_and_identifier(serving: Serving, connecting: Connecting) -> None:
    queue = StreamQueue()
    users = {"alice": "one", "bob": "two"}
    async with serving(queue, users=users) as port, connecting(port, password="two") as connection:
        await connection.open_stream()
        server = (await queue.get()).connection
        assert server.user == "bob"
        assert server.peer_identifier == f"trioanytls/{trioanytls.__version__}"
        assert server.version == 1


async def test_a_stream_is_usable_before_the_server_has_said_a_word() -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await stream.send_all(b"early")
        assert client.version is None
        await peer.receive_auth()
        assert [frame for frame in await peer.pending() if frame[0] >= FrameType.STREAM] == [
            (FrameType.STREAM_OPEN, 1, None),
            (FrameType.STREAM_DATA, 1, b"early"),
        ]
        await peer.send(SERVER_NEGO)
        await trio.testing.wait_all_tasks_blocked()
        assert client.version == 1


async def test_auth_and_nego_go_alone_when_no_stream_is_opened(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    async with trioanytls.wrap_client(recorded, password="password", config=trioanytls.Config(initial_flush_delay=2)):
        before = trio.current_time()
        received = await far.receive_some()
        assert trio.current_time() == before + 2
        assert received.startswith(HELLO[:34])
        assert len(recorded.sent) == 1
        await far.aclose()


async def test_the_first_stream_joins_auth_and_nego_in_one_write() -> None:
    near, _far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    async with memory_connection_pair(transports=(recorded, _far)) as (client, _):
        stream = await client.open_stream()
        await stream.wait_acknowledged()
        assert recorded.sent[0].startswith(HELLO[:34])
        assert recorded.sent[0].endswith(frames.encode_open(1))


async def test_a_ping_does_not_wait_for_the_first_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection_pair(client_config=trioanytls.Config(initial_flush_delay=1000)) as (client, _):
        assert await client.ping() == 0
        assert trio.current_time() < 1000


async def test_a_client_that_leaves_at_once_still_introduces_itself(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trioanytls.wrap_client(near, password="password"):
        pass
    peer = RawPeer(far)
    await peer.receive_auth()
    assert [frame[0] for frame in await peer.receive_all()] == [FrameType.CLIENT_NEGO, FrameType.CLOSE]


# Schemes


async def test_another_scheme_of_the_server_is_kept_for_later() -> None:
    scheme = trioanytls.PaddingScheme.parse(b"stop=2\n0=10-20\n1=50-60\n")
    async with memory_connection_pair(server_padding_scheme=scheme) as (client, server):
        await client.ping()
        assert client.server_padding_scheme == scheme
        assert client.padding_scheme == trioanytls.PaddingScheme.DEFAULT
        assert server.padding_scheme == scheme


async def test_a_scheme_that_was_received_serves_the_next_connection() -> None:
    scheme = trioanytls.PaddingScheme.parse(b"stop=2\n0=10-20\n1=50-60\n")
    received = None
    for expected in (scheme, None):
        async with memory_connection_pair(padding_scheme=received, server_padding_scheme=scheme) as (client, _):
            await client.ping()
            assert client.server_padding_scheme == expected
            received = client.server_padding_scheme


async def test_the_same_scheme_is_not_sent() -> None:
    async with memory_connection_pair() as (client, _):
        await client.ping()
        assert client.server_padding_scheme is None
        assert "PADDING_UPDATE_SCHEME" not in client.stats.frames_received


def _server_nego(extensions: frozenset[str]) -> bytes:
    more = b"ext=fin,goaway,reset,window\nwindow=65536\n" if extensions else b""
    return frames.encode_server_nego(b"v=1\n" + more)


@EITHER_WAY
async def test_a_server_shapes_when_told_to(extensions: frozenset[str]) -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(far)
    scheme = trioanytls.PaddingScheme.parse(b"stop=3\n0=10-20\n1=200-200\n2=300-300\n")
    async with memory_connection_pair(
        client_config=extending(extensions),
        server_config=extending(extensions, shape_server=True),
        server_padding_scheme=scheme,
        padding_scheme=scheme,
        transports=(near, recorded),
    ) as (client, _):
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        negotiation = len(_server_nego(extensions))
        # NEGO, STREAM_ACK, DATA.
        assert [len(write) for write in recorded.sent[:3]] == [negotiation, 200, 300]


# Violations and refusals


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        (b"\x11", "unknown frame type 0x11"),
        (b"\x0c\x00", "control stream"),
        (b"\x0a\x07\x01x", "never opened"),
        (HELLO, "must not be sent twice"),
        (b"\x10\x01", "only a server"),
        (b"\x0c\x05\x0c\x05", "increase"),
    ],
)
async def test_a_violation_is_answered_by_an_alert_that_says_so(
    sent: bytes, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_client() as (peer, server):
        await peer.send(sent)
        received = await until_end(peer)
        kind, stream_id, text = received[-1]
        assert (kind, stream_id) == (FrameType.ALERT, 0)
        assert rule in str(text)
        # NEGO was answered before, and no CLOSE follows the ALERT.
        assert received[0] == (FrameType.SERVER_NEGO, 6, b"v=1\n")
        assert FrameType.CLOSE not in [frame[0] for frame in received]
        assert isinstance(server.close_reason.__cause__, trioanytls.ProtocolViolation)
        assert server.close_reason.code is trioanytls.CloseCode.PROTOCOL_ERROR
    assert [record.levelno for record in caplog.records if record.name.startswith("trioanytls")] == [logging.WARNING]
    assert "password" not in caplog.text


async def until_end(peer: RawPeer) -> list[Frame]:
    """Return all frames up to ALERT or CLOSE, to which the peer responds by closing."""
    received = []
    while (frame := await peer.receive()) is not None:
        received.append(frame)
        if frame[0] in (FrameType.ALERT, FrameType.CLOSE):
            await peer.transport.send_eof()
    return received


async def test_the_text_of_an_alert_reaches_the_application() -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await peer.send(SERVER_NEGO, frames.encode_alert(b"not like this"))
        with pytest.raises(trioanytls.ConnectionClosed, match="not like this") as caught:
            await stream.receive_some()
        assert caught.value.code is trioanytls.CloseCode.PROTOCOL_ERROR


async def test_a_scheme_that_does_not_parse_is_a_violation_and_not_kept() -> None:
    async with raw_server() as (client, peer):
        await client.open_stream()
        await peer.receive_auth()
        await peer.send(SERVER_NEGO, frames.encode_padding_update_scheme(b"stop=many\n"))
        received = await until_end(peer)
        assert received[-1][0] == FrameType.ALERT
        assert client.server_padding_scheme is None
        assert client.closed


async def test_an_unsupported_version_is_answered_by_close_2_and_no_nego() -> None:
    block = b"v=2\nclient=raw/1\npadding-md5=" + b"0" * 32 + b"\n"
    async with raw_client(hello=HELLO[:65] + frames.encode_client_nego(block)) as (peer, server):
        assert await until_end(peer) == [(FrameType.CLOSE, 0, 2)]
        assert server.close_reason.code is trioanytls.CloseCode.VERSION_NOT_SUPPORTED


async def test_failed_authentication_is_closed_without_a_byte() -> None:
    for hello in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00" + bytes(32), b"\x00\x01"):
        async with raw_client(hello=hello) as (peer, server):
            assert await peer.receive() is None
            await server.wait_closed()
            assert isinstance(server.close_reason.__cause__, trioanytls.AuthenticationFailed)


async def test_a_wrong_password_ends_the_connection_over_tls(serving: Serving, connecting: Connecting) -> None:
    async with serving() as port, connecting(port, password="wrong") as connection:
        stream = await connection.open_stream()
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        assert caught.value.code is None


async def test_streams_beyond_the_limit_are_refused_and_the_connection_lives() -> None:
    async with memory_connection_pair(StreamQueue(), server_config=trioanytls.Config(max_streams=2)) as (client, _):
        kept = [await client.open_stream() for _ in range(2)]
        refused = await client.open_stream()
        with pytest.raises(trioanytls.StreamRefused):
            await refused.receive_some()
        await kept[0].wait_acknowledged()
        await client.ping()
        assert not client.closed


async def test_a_refused_stream_makes_room_again_when_a_handler_returns() -> None:
    async with memory_connection_pair(server_config=trioanytls.Config(max_streams=1)) as (client, _):
        for _ in range(3):
            async with await client.open_stream() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            await client.ping()


async def test_a_peer_that_asks_without_reading_is_disconnected(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    config = trioanytls.Config(max_pending_control=10, max_streams=1)

    async def nothing(stream: trioanytls.Stream) -> None:
        raise AssertionError("no stream is opened")

    async with trio.open_nursery() as nursery:

        async def server() -> None:
            await trioanytls.serve_connection(far, nothing, users={"alice": "password"}, config=config)
            nursery.cancel_scope.cancel()

        nursery.start_soon(server)
        await near.send_all(HELLO)
        for _ in range(100):
            with trio.move_on_after(1) as scope:
                await near.send_all(PINGPONG * 8)
            if scope.cancelled_caught:
                break
        # The server closes the connection although its answers were not read.
        await trio.sleep_forever()


# Handlers


@EITHER_WAY
async def test_a_failing_handler_is_logged_and_harms_nobody_else(
    caplog: pytest.LogCaptureFixture, extensions: frozenset[str]
) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        if await stream.receive_some() == b"fail":
            raise ZeroDivisionError("as told")
        await echo(stream)

    config = extending(extensions)
    async with memory_connection_pair(handler, client_config=config, server_config=config) as (client, _):
        good, bad = await client.open_stream(), await client.open_stream()
        await good.send_all(b"x")
        await bad.send_all(b"fail")
        if extensions:
            with pytest.raises(trioanytls.StreamReset) as caught:
                await bad.receive_some()
            assert caught.value.code is trioanytls.StreamCode.INTERNAL_ERROR
            # What has failed is in the server's log only.
            assert caught.value.reason is None
        else:
            assert await bad.receive_some() == b""
        await good.send_all(b"still here")
        assert await good.receive_some() == b"still here"
    records = [record for record in caplog.records if record.name == "trioanytls.server"]
    assert len(records) == 1
    assert records[0].levelno == logging.ERROR
    assert records[0].exc_info is not None
    assert records[0].exc_info[0] is ZeroDivisionError
    assert "user 'user': the handler of stream 2 failed" in records[0].getMessage()


async def test_a_handler_that_fails_in_its_nursery_while_the_server_is_cancelled_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError("during the end")

    async with memory_connection_pair(handler) as (client, _):
        stream = await client.open_stream()
        await stream.wait_acknowledged()
    assert "during the end" in caplog.text


async def test_when_a_handler_returns_its_stream_is_closed_behind_its_data() -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"all there is")

    async with memory_connection_pair(handler) as (client, _):
        stream = await client.open_stream()
        assert b"".join([piece async for piece in stream]) == b"all there is"


async def test_a_handler_starts_for_data_that_was_closed_before_it_ran() -> None:
    got: list[bytes] = []

    async def handler(stream: trioanytls.Stream) -> None:
        got.extend([piece async for piece in stream])

    async with raw_client(handler) as (peer, _):
        # The second one has received no data: no handler starts for it.
        await peer.send(frames.encode_open(1), data(1, b"x"), frames.encode_rst(1))
        await peer.send(frames.encode_open(2), frames.encode_rst(2))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [b"x"]
        assert FrameType.STREAM_ACK not in [frame[0] for frame in await peer.pending()]


# Errors and leftovers


async def test_a_single_failure_is_not_wrapped(serving: Serving, connecting: Connecting) -> None:
    async with serving() as port:
        with pytest.raises(ZeroDivisionError):
            async with connecting(port):
                raise ZeroDivisionError
        with pytest.raises(trioanytls.ConnectionClosed):
            async with connecting(port, password="wrong") as connection:
                await (await connection.open_stream()).receive_some()
        with pytest.raises(OSError, match="all attempts to connect"):
            async with connecting(1):
                pass


async def test_two_failures_of_the_application_remain_a_group() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with memory_connection_pair(), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


async def test_nothing_outlives_the_connection(serving: Serving, connecting: Connecting) -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with serving(StreamQueue()) as port:
        before = tasks()
        async with connecting(port) as connection:
            streams = [await connection.open_stream() for _ in range(20)]
            await streams[-1].wait_acknowledged()
            assert tasks() > before + 20
        transport: Any = connection._transport
        socket = transport.transport.socket
        assert socket.fileno() == -1
    # The server was cancelled, with its connections and handlers.
    assert tasks() < before
    for stream in streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_a_lost_connection_is_an_error_and_not_an_end_of_file() -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await peer.transport.send_eof()
        with pytest.raises(trioanytls.ConnectionClosed, match="without a CLOSE") as caught:
            await stream.receive_some()
        assert caught.value.code is None
        for operation in (client.open_stream, client.ping):
            with pytest.raises(trioanytls.ConnectionClosed):
                await operation()
        with pytest.raises(trioanytls.ConnectionClosed):
            await stream.send_all(b"x")


class FailingTransport(RecordedTransport):
    """A transport that breaks in the middle of a read, on request."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        super().__init__(transport)
        self.fail = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.fail.wait()
        raise trio.BrokenResourceError("the cable")


async def test_the_error_names_the_first_cause() -> None:
    near, _far = trio.testing.memory_stream_pair()
    transport = FailingTransport(near)
    async with trioanytls.wrap_client(transport, password="password") as client:
        stream = await client.open_stream()
        transport.fail.set()
        for _ in range(2):
            with pytest.raises(trioanytls.ConnectionClosed, match="broke") as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
            assert str(caught.value.__cause__) == "the cable"


async def test_a_mistake_in_the_machinery_ends_that_connection_alone(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Mistaken(FailingTransport):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await self.fail.wait()
            raise ZeroDivisionError("in a transport")

    near, far = trio.testing.memory_stream_pair()
    transport = Mistaken(near)
    async with trioanytls.wrap_client(transport, password="password") as client:
        stream = await client.open_stream()
        transport.fail.set()
        with pytest.raises(trioanytls.ConnectionClosed, match="internal error") as caught:
            await stream.receive_some()
        assert caught.value.code is trioanytls.CloseCode.INTERNAL_ERROR
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    peer = RawPeer(far)
    await peer.receive_auth()
    assert (await peer.receive_all())[-1] == (FrameType.CLOSE, 0, 4)
    assert "internal error" in caplog.text


async def test_small_pieces_cost_what_they_take() -> None:
    queue = StreamQueue()
    async with raw_client(queue, trioanytls.Config(receive_buffer_size=6500)) as (peer, server):
        await peer.send(frames.encode_open(1))
        stream = await queue.get()
        for _ in range(1000):
            await peer.send(data(1, b"x"))
            await trio.testing.wait_all_tasks_blocked()
        # A hundred pieces of 1 + 64 fill the buffer. The rest waits in the transport.
        assert stream._core.received.size == 101
        assert server.stats.data_bytes_received == 101
        received = 0
        while received < 1000:
            received += len(await stream.receive_some())
        await stream.aclose()


async def test_a_closed_connection_raises_closed_on_this_side_and_broken_on_the_other() -> None:
    queue = StreamQueue()
    async with memory_connection_pair(queue) as (client, server):
        near = await client.open_stream()
        far = await queue.get()
        async with trio.open_nursery() as nursery:

            async def meet() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await near.receive_some()

            nursery.start_soon(meet)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
        await client.aclose()
        for operation in (near.receive_some, client.open_stream, client.ping):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await far.receive_some()
        assert caught.value.code is trioanytls.CloseCode.NO_ERROR
        with pytest.raises(trioanytls.ConnectionClosed):
            await server.ping()
        await server.wait_closed()
        await far.aclose()


async def test_only_clients_open_streams() -> None:
    async with memory_connection_pair() as (_, server):
        with pytest.raises(RuntimeError, match="only a client"):
            await server.open_stream()


async def test_ids_run_out_after_the_last_one() -> None:
    async with memory_connection_pair(StreamQueue()) as (client, _):
        await client.ping()
        protocol: Any = client._multiplexer.protocol
        protocol.opened_ids.add(2**62 - 2)
        last = await client.open_stream()
        assert last.stream_id == 2**62 - 1
        with pytest.raises(trioanytls.ConnectionClosed, match="used up"):
            await client.open_stream()
        await last.wait_acknowledged()


@EITHER_WAY
async def test_stats_count_both_directions(extensions: frozenset[str]) -> None:
    config = extending(extensions)
    async with memory_connection_pair(client_config=config, server_config=config) as (client, server):
        async with await client.open_stream() as stream:
            await stream.send_all(b"12345")
            assert await stream.receive_some() == b"12345"
        await client.ping()
        ours, theirs = client.stats, server.stats
        assert ours.frames_sent == {
            "AUTH": 1,
            "CLIENT_NEGO": 1,
            "PINGPONG": 1,
            "STREAM[OPEN]": 1,
            "STREAM[DATA]": 1,
            "STREAM[RST]": 1,
            "PADDING": ours.frames_sent["PADDING"],
            **({"STREAM_FIN": 1} if extensions else {}),
        }
        assert theirs.frames_received == ours.frames_sent
        assert ours.frames_received == theirs.frames_sent
        assert ours.data_bytes_sent == ours.data_bytes_received == theirs.data_bytes_received == 5
        assert ours.bytes_sent == theirs.bytes_received
        assert ours.streams_opened == theirs.streams_opened == 1
        assert ours.open_streams == 0
        assert ours.padding_bytes_sent > theirs.padding_bytes_received > 0
        assert ours.deliveries[0].index == 0
        assert sum(len(delivery.written) for delivery in ours.deliveries) == ours.writes


async def test_a_repr_tells_role_and_state() -> None:
    async with memory_connection_pair() as (client, server):
        await client.ping()
        assert repr(client) == "<trioanytls.Connection (client) CONFIRMED streams=0>"
        assert "(server) OPEN" in repr(server)
