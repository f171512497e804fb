"""Connections in the legacy format, over transports in memory (legacy: 1 to 4 and 12)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PaddingScheme
from trioanytls.testing import RecordedTransport, StreamQueue, echo, memory_connection_pair

from ..helpers.connection_ends import ROLES, End, Role, end_of
from ..helpers.legacy_bytes import (
    ALERT,
    CLIENT_SETTINGS,
    DEFAULT_DIGEST,
    FIN,
    HEART_REQUEST,
    HEART_RESPONSE,
    HELLO,
    PREAMBLE,
    PSH,
    SERVER_SETTINGS,
    SERVER_SETTINGS_2,
    SYN,
    SYNACK,
    UPDATE,
    VERSION_1,
    WASTE,
    fin,
    frame,
    md5,
    psh,
    settings,
    syn,
    synack,
    waste,
)
from ..helpers.legacy_peer import legacy_client, legacy_end, legacy_server
from ..helpers.raw_peer import PINGPONG, data

Clock = trio.testing.MockClock

OWN_SETTINGS = settings("v=2", f"client=trioanytls/{trioanytls.__version__}", f"padding-md5={DEFAULT_DIGEST}")
ADDRESS = bytes.fromhex("017f0000010050")


def scheme(*lines: str) -> PaddingScheme:
    return PaddingScheme.parse("\n".join(lines).encode())


def settings_for(chosen: PaddingScheme) -> bytes:
    return settings("v=2", f"client=trioanytls/{trioanytls.__version__}", f"padding-md5={chosen.digest}")


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


# What a client writes first


async def test_the_preamble_is_a_write_of_its_own() -> None:
    async with legacy_server() as (client, _, recorded):
        await settle()
        assert recorded.sent[0] == PREAMBLE
        await client.open_stream()


@pytest.mark.parametrize(
    ("line", "size"),
    [("0=30-30", 30), ("0=0-0", 0), ("0=700-700,100-100", 700), ("1=5-5", 0), ("0=9000-9000", 8158)],
)
async def test_the_first_size_of_line_0_is_the_padding_of_the_preamble(line: str, size: int) -> None:
    async with legacy_server(scheme=scheme("stop=3", line)) as (_, _peer, recorded):
        await settle()
        assert recorded.sent[0] == PREAMBLE[:32] + size.to_bytes(2, "big") + bytes(size)


async def test_packet_1_is_settings_syn_and_the_first_psh(autojump_clock: Clock) -> None:
    chosen = scheme("stop=2", "0=30-30", "1=2000-2000")
    async with legacy_server(scheme=chosen) as (client, _, recorded):
        stream = await client.open_stream()
        await trio.sleep(0.01)
        # Neither Settings nor SYN leaves before the first PSH.
        assert recorded.sent == [PREAMBLE]
        await stream.send_all(ADDRESS)
        await settle()
        packet = settings_for(chosen) + syn(1) + psh(1, ADDRESS)
        assert recorded.sent == [PREAMBLE, packet + waste(2000 - len(packet) - 7)]


async def test_packet_1_in_the_default_scheme_has_100_to_399_bytes() -> None:
    async with legacy_server() as (client, _, recorded):
        await (await client.open_stream()).send_all(ADDRESS)
        await settle()
        _, packet = recorded.sent
        content = OWN_SETTINGS + syn(1) + psh(1, ADDRESS)
        # A write that is short by at most a header has no Waste.
        assert packet.startswith(content)
        assert len(content) <= len(packet) < 400


async def test_without_a_psh_settings_and_syn_leave_after_the_flush_delay(autojump_clock: Clock) -> None:
    async with legacy_server(scheme=scheme("stop=1")) as (client, _, recorded):
        await client.open_stream()
        await trio.sleep(1)
        assert recorded.sent == [PREAMBLE[:32] + bytes(2), settings_for(scheme("stop=1")) + syn(1)]


async def test_without_a_stream_settings_leave_alone(autojump_clock: Clock) -> None:
    async with legacy_server() as (_, _peer, recorded):
        await trio.sleep(1)
        first, packet = recorded.sent
        assert first == PREAMBLE
        assert packet.startswith(OWN_SETTINGS)


async def test_the_name_of_the_client_may_be_empty() -> None:
    config = trioanytls.Config(client_identifier="", initial_flush_delay=0)
    async with legacy_server(config) as (_, _peer, recorded):
        await settle()
        assert settings("v=2", "client=", f"padding-md5={DEFAULT_DIGEST}") in b"".join(recorded.sent)


# Later packets


async def test_each_frame_is_a_packet_and_control_frames_too(autojump_clock: Clock) -> None:
    chosen = scheme("stop=7", *(f"{number}={number}00-{number}00" for number in range(1, 7)))
    async with legacy_server(scheme=chosen) as (client, peer, recorded):
        one = await client.open_stream()
        await one.send_all(ADDRESS)
        await settle()
        del recorded.sent[:]
        # Packet 2 is a SYN, 3 and 4 are PSH, 5 is a HeartResponse, 6 a FIN.
        two = await client.open_stream()
        await settle()
        await two.send_all(ADDRESS)
        await two.send_all(b"payload")
        await settle()
        await peer.send(frame(HEART_REQUEST, 9))
        await settle()
        await two.aclose()
        await settle()
        contents = [syn(2), psh(2, ADDRESS), psh(2, b"payload"), frame(HEART_RESPONSE, 9), fin(2)]
        assert recorded.sent == [
            content + waste(size - len(content) - 7)
            for content, size in zip(contents, [200, 300, 400, 500, 600], strict=True)
        ]
        # From `stop` on, nothing is shaped.
        await one.send_all(b"more")
        await settle()
        assert recorded.sent[5:] == [psh(1, b"more")]


async def test_frames_that_are_queued_together_are_packets_of_their_own() -> None:
    async with legacy_server(scheme=scheme("stop=9", "2=50-50", "3=60-60", "4=70-70")) as (client, _, recorded):
        stream = await client.open_stream()
        for _ in range(4):
            await stream.send_all(ADDRESS)
        await settle()
        assert [len(sent) for sent in recorded.sent[2:]] == [50, 60, 70]


async def test_a_running_session_follows_a_new_scheme(autojump_clock: Clock) -> None:
    async with legacy_server(scheme=scheme("stop=9")) as (client, peer, recorded):
        stream = await client.open_stream()
        await stream.send_all(b"one")
        await settle()
        # Lines that are lacking shape nothing: packet 2.
        await stream.send_all(b"two")
        await settle()
        assert recorded.sent[2:] == [psh(1, b"two")]
        text = b"stop=5\n3=40-40\n4=90-90\n"
        await peer.send(frame(UPDATE, 0, text))
        await settle()
        assert client.server_padding_scheme is not None
        assert client.server_padding_scheme.digest == md5(text)
        for payload in (b"three", b"four", b"five"):
            await stream.send_all(payload)
            await settle()
        assert recorded.sent[3:] == [
            psh(1, b"three") + waste(40 - 12 - 7),
            psh(1, b"four") + waste(90 - 11 - 7),
            psh(1, b"five"),
        ]


async def test_a_scheme_that_does_not_parse_leaves_the_old_one() -> None:
    async with legacy_server(scheme=scheme("stop=9", "2=40-40")) as (client, peer, recorded):
        stream = await client.open_stream()
        await stream.send_all(b"one")
        await settle()
        await peer.send(frame(UPDATE, 0, b"stop=x\n2=80-80"))
        await settle()
        await stream.send_all(b"two")
        await settle()
        assert [len(sent) for sent in recorded.sent[2:]] == [40]
        assert client.server_padding_scheme is None
        assert not client.closed


@pytest.mark.parametrize("shape_server", [False, True])
async def test_only_clients_shape(shape_server: bool) -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(far)
    config = trioanytls.Config(shape_server=shape_server)
    async with legacy_client(config=config, pair=(near, recorded)) as (peer, _):
        await peer.send(syn(1), psh(1, b"hello"))
        await settle()
        assert b"".join(recorded.sent) == SERVER_SETTINGS_2 + synack(1) + psh(1, b"hello")


@pytest.mark.parametrize("role", ROLES)
async def test_data_of_more_than_65535_bytes_is_split(role: Role) -> None:
    async with legacy_end(role, streams=1) as end:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.streams[0].send_all, bytes(70_000))
            frames = [await end.peer.receive(), await end.peer.receive()]
        assert frames == [(PSH, 1, bytes(65_535)), (PSH, 1, bytes(4_465))]


# Settings


async def test_the_answer_to_settings_is_the_scheme_then_server_settings_then_synack() -> None:
    chosen = scheme("stop=2", "1=5-9")
    async with legacy_client(scheme=chosen, hello=HELLO + syn(1)) as (peer, server):
        assert await peer.pending() == [
            (UPDATE, 0, chosen.to_bytes().removesuffix(b"\n")),
            (10, 0, b"v=2"),
            (7, 1, b""),
        ]
        assert server.version == 2
        assert server.peer_identifier == ""


async def test_a_server_says_nothing_before_settings(autojump_clock: Clock) -> None:
    async with legacy_client(hello=PREAMBLE + waste(100) + psh(1, b"x") + fin(1)) as (peer, _):
        await trio.sleep(5)
        assert await peer.pending() == []


async def test_a_client_of_version_1_gets_neither_server_settings_nor_synack() -> None:
    async with legacy_client(hello=PREAMBLE + VERSION_1 + syn(1) + psh(1, b"x")) as (peer, server):
        assert await peer.pending() == [(PSH, 1, b"x")]
        assert server.version == 1
        assert server.peer_identifier == "old/1"


async def test_everything_may_come_in_one_record_with_the_preamble() -> None:
    async with legacy_client(hello=HELLO + syn(1) + psh(1, ADDRESS) + psh(1, b"payload")) as (peer, server):
        assert await peer.pending() == [(SERVER_SETTINGS, 0, b"v=2"), (SYNACK, 1, b""), (PSH, 1, ADDRESS + b"payload")]
        assert server.user == "alice"
        assert server.protocol == "legacy"


@pytest.mark.parametrize("hello", [PREAMBLE, PREAMBLE + waste(500) + frame(200) + settings()])
async def test_syn_before_settings_is_told_by_an_alert(hello: bytes, autojump_clock: Clock) -> None:
    async with legacy_client(hello=hello + syn(1)) as (peer, server):
        assert await peer.receive_all() == [(ALERT, 0, b"client did not send its settings")]
        await server.wait_closed()


async def test_second_settings_are_answered_again() -> None:
    async with legacy_client(hello=HELLO + CLIENT_SETTINGS) as (peer, _):
        assert await peer.pending() == [(SERVER_SETTINGS, 0, b"v=2")] * 2


async def test_a_wrong_password_is_answered_by_nothing() -> None:
    async with legacy_client(hello=bytes(32) + PREAMBLE[32:] + CLIENT_SETTINGS) as (peer, server):
        assert await peer.receive_all() == []
        await server.wait_closed()


# Heartbeats, Waste and commands that mean nothing


async def test_a_heartbeat_before_settings_is_answered_with_its_id() -> None:
    async with legacy_client(hello=PREAMBLE + frame(HEART_REQUEST, 77)) as (peer, _):
        assert await peer.pending() == [(HEART_RESPONSE, 77, b"")]


@pytest.mark.parametrize("role", ROLES)
async def test_a_heartbeat_of_an_idle_session_is_answered_with_its_id(role: Role, autojump_clock: Clock) -> None:
    async with legacy_end(role) as end:
        await trio.sleep(100)
        await end.peer.send(frame(HEART_REQUEST, 0), frame(HEART_REQUEST, 2**32 - 1))
        assert await end.peer.pending() == [(HEART_RESPONSE, 0, b""), (HEART_RESPONSE, 2**32 - 1, b"")]


@pytest.mark.parametrize("role", ROLES)
async def test_a_ping_is_a_heartbeat(role: Role) -> None:
    async with legacy_end(role) as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.ping)
        assert await end.peer.receive() == (HEART_REQUEST, 0, b"")
        await end.peer.send(frame(HEART_RESPONSE))


async def test_no_heartbeat_is_sent_to_version_1(autojump_clock: Clock) -> None:
    config = trioanytls.Config(keepalive_interval=5, keepalive_timeout=2)
    async with legacy_server(config) as (client, peer, _):
        await peer.receive_preamble()
        with pytest.raises(trioanytls.NotSupported):
            await client.ping()
        await trio.sleep(100)
        assert [kind for kind, _, _ in await peer.pending()] == [4]
        assert not client.closed


async def test_a_ping_that_is_not_supported_is_not_awaited(autojump_clock: Clock) -> None:
    """It was never sent, so that a missing answer says nothing about the server."""
    async with legacy_server() as (client, peer, _):
        await peer.receive_preamble()
        with pytest.raises(trioanytls.NotSupported):
            await client.ping()
        await peer.send(SERVER_SETTINGS_2)
        async with trio.open_nursery() as nursery:
            await peer.receive()
            nursery.start_soon(client.ping)
            assert await peer.receive() == (HEART_REQUEST, 0, b"")
            await peer.send(frame(HEART_RESPONSE))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(waste(0) + waste(65_535), id="Waste"),
        pytest.param(frame(WASTE, 5, b"random"), id="Waste of a stream"),
        pytest.param(b"".join(frame(command, 1) + frame(command, 9) for command in range(11, 256)), id="unknown"),
        pytest.param(frame(11, 1, b"\x03\x00\x00\x00\x01\x00\x00"), id="unknown with data"),
        pytest.param(frame(HEART_RESPONSE, 3), id="HeartResponse"),
        pytest.param(frame(ALERT), id="an empty Alert"),
        pytest.param(psh(9, b"x") + fin(9) + psh(1, b""), id="frames of no stream"),
    ],
)
async def test_noise_between_frames_of_a_stream_is_skipped(role: Role, noise: bytes) -> None:
    async with legacy_end(role, streams=1) as end:
        await end.peer.send(psh(1, b"before"), noise, psh(1, b" and after"), noise)
        received = b""
        while len(received) < 16:
            received += await end.streams[0].receive_some()
        assert received == b"before and after"
        assert await end.peer.pending() == []
        assert not end.connection.closed


async def test_commands_of_clients_mean_nothing_to_a_client() -> None:
    async with legacy_end("client", streams=1) as end:
        await end.peer.send(CLIENT_SETTINGS, syn(7))
        assert await end.peer.pending() == [(FIN, 7, b"")]
        assert not end.connection.closed


async def test_commands_of_servers_mean_nothing_to_a_server() -> None:
    async with legacy_end("server", streams=1) as end:
        await end.peer.send(frame(UPDATE, 0, b"stop=0"), SERVER_SETTINGS_2, synack(1), synack(5))
        assert await end.peer.pending() == []
        assert not end.connection.closed


# Streams


async def test_ids_of_a_client_count_from_1() -> None:
    async with legacy_server() as (client, peer, _):
        await peer.receive_preamble()
        streams = [await client.open_stream() for _ in range(3)]
        assert [stream.stream_id for stream in streams] == [1, 2, 3]
        assert [stream_id for kind, stream_id, _ in await peer.pending() if kind == SYN] == [1, 2, 3]


@pytest.mark.parametrize("stream_id", [0, 1, 7, 2**32 - 1])
async def test_a_server_takes_any_id_and_takes_it_again(stream_id: int) -> None:
    async with legacy_client(hello=HELLO + syn(5)) as (peer, _):
        await peer.pending()
        for number in range(3):
            text = b"%d" % number
            # The second SYN is ignored.
            await peer.send(syn(stream_id), syn(stream_id), psh(stream_id, text))
            assert await peer.pending() == [(SYNACK, stream_id, b""), (PSH, stream_id, text)]
            await peer.send(fin(stream_id))
            assert await peer.pending() == []


@pytest.mark.parametrize("role", ROLES)
async def test_fin_ends_both_directions_and_is_not_answered(role: Role) -> None:
    async with legacy_end(role, streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(psh(1, b"all of it"), fin(1))
        assert await stream.receive_some() == b"all of it"
        assert await stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"too late")
        await stream.aclose()
        assert await end.peer.pending() == []


@pytest.mark.parametrize("role", ROLES)
async def test_fins_that_cross_are_not_answered(role: Role) -> None:
    async with legacy_end(role, streams=1) as end:
        await end.streams[0].aclose()
        await end.peer.send(psh(1, b"sent before our FIN came"), fin(1), fin(1))
        assert await end.peer.pending() == [(FIN, 1, b"")]
        assert not end.connection.closed


@pytest.mark.parametrize("role", ROLES)
async def test_4_mb_after_our_fin_are_dropped(role: Role) -> None:
    async with legacy_end(role, streams=2) as end:
        await end.streams[0].aclose()
        for _ in range(64):
            await end.peer.send(psh(1, bytes(65_535)))
        await end.peer.send(psh(2, b"the other stream"))
        assert await end.streams[1].receive_some() == b"the other stream"
        assert await end.peer.pending() == [(FIN, 1, b"")]


@pytest.mark.parametrize("role", ROLES)
async def test_more_late_frames_than_max_idle_frames_are_dropped(role: Role) -> None:
    async with legacy_end(role, trioanytls.Config(max_idle_frames=100), streams=2) as end:
        await end.streams[0].aclose()
        await end.peer.send(psh(1, b"small") * 1000, fin(1), psh(2, b"the other stream"))
        assert await end.streams[1].receive_some() == b"the other stream"


async def test_data_is_sent_before_fin() -> None:
    async with legacy_end("server", streams=1) as end:
        await end.streams[0].send_all(b"all of it")
        await end.streams[0].aclose()
        assert await end.peer.pending() == [(PSH, 1, b"all of it"), (FIN, 1, b"")]


async def test_payload_does_not_wait_for_synack() -> None:
    async with legacy_server() as (client, peer, _):
        await peer.receive_preamble()
        stream = await client.open_stream()
        await stream.send_all(ADDRESS)
        await stream.send_all(b"payload")
        assert [sent for sent in await peer.pending() if sent[1]] == [
            (SYN, 1, b""),
            (PSH, 1, ADDRESS),
            (PSH, 1, b"payload"),
        ]
        assert not stream.is_acknowledged


async def test_synack_accepts_a_stream() -> None:
    async with legacy_server() as (client, peer, _):
        stream = await client.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_acknowledged)
            await peer.send(SERVER_SETTINGS_2, synack(1))
        assert client.version == 2


async def test_with_version_1_the_first_data_accepts_a_stream() -> None:
    async with legacy_server() as (client, peer, _):
        stream = await client.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_acknowledged)
            await settle()
            assert not stream.is_acknowledged
            assert client.version is None
            await peer.send(psh(1, b"hello"))
        assert await stream.receive_some() == b"hello"
        assert client.version == 1


async def test_with_version_1_a_fin_before_data_refuses_a_stream() -> None:
    async with legacy_server() as (client, peer, _):
        stream = await client.open_stream()
        await peer.send(fin(1))
        with pytest.raises(trioanytls.StreamRefused):
            await stream.wait_acknowledged()


async def test_a_refused_stream_has_the_text_and_the_session_goes_on() -> None:
    async with legacy_server(trioanytls.Config(initial_flush_delay=0)) as (client, peer, _):
        await peer.receive_preamble()
        stream = await client.open_stream()
        await peer.pending()
        await peer.send(SERVER_SETTINGS_2, synack(1, "dial tcp 127.0.0.1:1: connect: connection refused"), fin(1))
        with pytest.raises(trioanytls.StreamRefused, match=r"dial tcp 127\.0\.0\.1:1: connect: connection refused"):
            await stream.wait_acknowledged()
        with pytest.raises(trioanytls.StreamRefused):
            await stream.receive_some()
        assert await peer.pending() == [(FIN, 1, b"")]
        second = await client.open_stream()
        await peer.send(synack(2))
        await second.wait_acknowledged()


@pytest.mark.parametrize(
    ("hello", "answer"),
    [
        (HELLO, [(SERVER_SETTINGS, 0, b"v=2"), (SYNACK, 1, b"no route"), (FIN, 1, b"")]),
        (PREAMBLE + VERSION_1, [(FIN, 1, b"")]),
    ],
    ids=["version 2", "version 1"],
)
async def test_a_refusal_is_synack_with_a_text_and_fin(hello: bytes, answer: list[tuple[int, int, bytes]]) -> None:
    async def refuse(stream: trioanytls.Stream) -> None:
        await stream.refuse(reason="no route")

    config = trioanytls.Config(acknowledge="manual")
    async with legacy_client(refuse, config, hello=hello + syn(1)) as (peer, _):
        assert await peer.pending() == answer


async def test_a_refusal_comes_after_the_settings() -> None:
    """The client sends Settings and opens streams in one write."""
    config = trioanytls.Config(max_streams=1)
    async with legacy_client(StreamQueue(), config, hello=HELLO + syn(1) + syn(2)) as (peer, _):
        received = await peer.pending()
        assert received[0] == (SERVER_SETTINGS, 0, b"v=2")
        assert sorted(received[1:]) == sorted(
            [(SYNACK, 1, b""), (SYNACK, 2, b"too many streams are open"), (FIN, 2, b"")]
        )


async def test_data_that_comes_before_synack_is_kept() -> None:
    queue = StreamQueue()
    config = trioanytls.Config(acknowledge="manual")
    async with legacy_client(queue, config, hello=HELLO + syn(1) + psh(1, ADDRESS[:3])) as (peer, _):
        stream = await queue.get()
        await peer.send(psh(1, ADDRESS[3:]), psh(1, b"payload"))
        assert await peer.pending() == [(SERVER_SETTINGS, 0, b"v=2")]
        assert await stream.receive_some() == ADDRESS + b"payload"
        await stream.acknowledge()
        assert await peer.pending() == [(SYNACK, 1, b"")]


async def test_64_streams_at_once() -> None:
    async with legacy_client(hello=HELLO + b"".join(map(syn, range(1, 65)))) as (peer, _):
        await peer.pending()
        await peer.send(*(psh(stream_id, b"%d" % stream_id) for stream_id in range(1, 65)))
        assert sorted(await peer.pending()) == sorted((PSH, number, b"%d" % number) for number in range(1, 65))


# The end of a session


@pytest.mark.parametrize("role", ROLES)
async def test_an_alert_ends_the_session(role: Role, autojump_clock: Clock) -> None:
    async with legacy_end(role, streams=1) as end:
        await end.peer.send(frame(ALERT, 0, b"bad"))
        with pytest.raises(trioanytls.ConnectionClosed, match="bad"):
            await end.streams[0].receive_some()
        assert await end.peer.receive_all() == []
        await end.connection.wait_closed()


@pytest.mark.parametrize("role", ROLES)
async def test_closing_sends_no_frame(role: Role, autojump_clock: Clock) -> None:
    async with legacy_end(role, streams=2) as end:
        await end.streams[0].send_all(b"before the end")
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end.connection.aclose)
                # No FIN either, although two streams are open.
                assert await end.peer.receive_all() == [(PSH, 1, b"before the end")]
                await end.peer.transport.aclose()


@pytest.mark.parametrize("role", ROLES)
async def test_the_end_of_a_session_has_no_code(role: Role) -> None:
    async with legacy_end(role, streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(psh(1, b"before the end"))
        await end.peer.transport.aclose()
        assert await stream.receive_some() == b"before the end"
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        assert caught.value.code is None
        await end.connection.wait_closed()


async def test_two_ends_close_without_waiting_for_each_other(autojump_clock: Clock) -> None:
    start = trio.current_time()
    async with (
        memory_connection_pair(echo, protocol="legacy") as (client, server),
        await client.open_stream() as stream,
    ):
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
    assert client.closed
    assert server.closed
    assert trio.current_time() == start


# Limits


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("limit", ["receive_buffer_size", "connection_receive_buffer_size"])
async def test_a_stream_that_is_not_read_holds_up_others_for_4_seconds(
    role: Role, limit: str, autojump_clock: Clock
) -> None:
    config = trioanytls.Config(stall_timeout=30, **dict[str, Any]({limit: 1000}))
    async with legacy_end(role, config, streams=2) as end:
        start = trio.current_time()
        await end.peer.send(psh(1, bytes(2000)))
        await settle()
        await end.peer.send(psh(2, b"after it"))
        assert await end.streams[1].receive_some() == b"after it"
        assert trio.current_time() - start == 4
        assert (FIN, 1, b"") in await end.peer.pending()


async def test_a_shorter_stall_timeout_holds(autojump_clock: Clock) -> None:
    config = trioanytls.Config(stall_timeout=1, receive_buffer_size=1000)
    async with legacy_end("client", config, streams=2) as end:
        start = trio.current_time()
        await end.peer.send(psh(1, bytes(2000)), psh(2, b""))
        await settle()
        await end.peer.send(psh(2, b"after it"))
        assert await end.streams[1].receive_some() == b"after it"
        assert trio.current_time() - start == 1


def ends(wire_format: str, role: Role, config: trioanytls.Config, streams: int) -> AbstractAsyncContextManager[End]:
    """Give an established end, whose peer is raw, in either format."""
    return (legacy_end if wire_format == "legacy" else end_of)(role, config, streams)


_DATA = {"legacy": psh, "anytls1": data}
_REQUEST = {"legacy": frame(HEART_REQUEST), "anytls1": PINGPONG}


@pytest.mark.parametrize("wire_format", ["anytls1", "legacy"])
async def test_streams_that_a_client_closes_are_not_answers(wire_format: str) -> None:
    config = trioanytls.Config(max_pending_control=1)
    # More than `max_pending_control` and two for each stream of `max_streams`.
    count = 2100
    async with ends(wire_format, "client", config, count) as end:
        writable = end.block()
        await end.streams[-1].send_all(b"blocks the writer")
        await settle()
        for stream in end.streams[1:-1]:
            await stream.aclose()
        await end.peer.send(_DATA[wire_format](1, b"hello"))
        assert await end.streams[0].receive_some() == b"hello"
        await end.peer.send(_DATA[wire_format](1, b"again"))
        assert await end.streams[0].receive_some() == b"again"
        # Answers are counted all the same.
        await end.peer.send(_REQUEST[wire_format] * (1 + 2 * 1024 + 1))
        await settle()
        assert not end.connection.closed
        await end.peer.send(_DATA[wire_format](1, b"too much"))
        with pytest.raises(trioanytls.ConnectionClosed, match="unread answers"):
            while True:
                await end.streams[0].receive_some()
        writable.set()


@pytest.mark.parametrize("wire_format", ["anytls1", "legacy"])
async def test_streams_that_a_server_closes_are_answers(wire_format: str) -> None:
    config = trioanytls.Config(max_pending_control=1, max_streams=3)
    async with ends(wire_format, "server", config, 3) as end:
        writable = end.block()
        await end.streams[0].send_all(b"blocks the writer")
        await settle()
        await end.streams[1].aclose()
        await end.streams[2].aclose()
        await end.peer.send(_REQUEST[wire_format] * 6)
        await settle()
        assert not end.connection.closed
        await end.peer.send(_DATA[wire_format](1, b"too much"))
        with pytest.raises(trioanytls.ConnectionClosed, match="unread answers"):
            await end.streams[0].receive_some()
        writable.set()
