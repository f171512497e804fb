"""RelayHandler: relaying a stream to its destination, and refusing it."""

import contextlib
import errno
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import StreamCode, StreamRefused, StreamReset, reset_stream
from trioanytls.destination import Destination, encode
from trioanytls.relay import dial, refusals
from trioanytls.relay.address_policy import AddressPolicy, parse_network
from trioanytls.relay.dial import Resolved
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.lookups import Lookups
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending

MEBIBYTE = 1 << 20
HERE = AddressPolicy([parse_network("127.0.0.0/8")])


@contextlib.asynccontextmanager
async def relaying(
    policy: AddressPolicy = HERE, extensions: Collection[str] = ALL, **options: Any
) -> AsyncIterator[trioanytls.Connection]:
    """Yield a client of a relay server with these extensions."""
    configs: dict[str, Any] = {
        "client_config": extending(extensions),
        "server_config": extending(extensions, acknowledge="manual"),
    }
    async with memory_connection_pair(RelayHandler(policy, **options), **configs) as (client, _):
        yield client


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[..., Any] | None = None,
) -> AsyncIterator[tuple[Destination, trio.MemoryReceiveChannel[trio.SocketStream]]]:
    """Yield a destination on loopback, which queues its connections or serves them."""
    send, receive = trio.open_memory_channel(10)

    async def hand_out(stream: trio.SocketStream) -> None:
        await send.send(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve or hand_out, 0, host=HOST))
        yield Destination(HOST, listeners[0].socket.getsockname()[1]), receive
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def opened(
    client: trioanytls.Connection, destination: Destination | bytes, rest: bytes = b""
) -> AsyncIterator[trioanytls.Stream]:
    """Open a stream with this destination."""
    async with await client.open_stream() as stream:
        await stream.send_all((destination if isinstance(destination, bytes) else encode(destination)) + rest)
        yield stream


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        assert piece
        received += piece
    return bytes(received)


class Names:
    """A resolver with a few names, which counts the lookups of each."""

    def __init__(self, **names: Any) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: bytes, port: int) -> list[tuple[Any, ...]]:
        name = host.decode("ascii")
        self.asked.append(name)
        if name == "never.example":
            await trio.sleep_forever()
        if name == "broken.example":
            raise OSError("the resolver is broken")
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        await trio.lowlevel.checkpoint()
        found = [
            (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
            for address in self.names[name]
        ]
        # Each address twice, as for two socket types.
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found for _ in range(2)]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    resolver = Names(
        here_example=[HOST],
        both_example=["::1", HOST],
        rebound_example=["8.8.8.8"],
        inside_example=["10.0.0.1", "169.254.169.254", "::ffff:192.168.0.1"],
        partly_example=["10.0.0.1", HOST],
        nothing_example=[],
    )

    async def look_up(
        _self: Lookups, _connection: trioanytls.Connection, _function: Callable[..., Any], host: bytes, port: int
    ) -> list[tuple[Any, ...]]:
        return await resolver.getaddrinfo(host, port)

    # Without threads, since a mock clock does not wait for them.
    monkeypatch.setattr(Lookups, "run", look_up)
    return resolver


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Return a function that returns the relay's log messages, by level."""
    caplog.set_level(logging.DEBUG, "trioanytls.relay")

    def get(level: int = logging.DEBUG) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "trioanytls.relay" and record.levelno >= level
        ]

    return get


# Relaying


async def test_a_mebibyte_both_ways(said: Callable[..., Any]) -> None:
    question, answer = os.urandom(MEBIBYTE), os.urandom(MEBIBYTE)
    async with listening() as (destination, connected), relaying(extensions=NO_EXTENSIONS) as client:
        async with opened(client, destination) as stream:
            await stream.wait_acknowledged()
            far = await connected.receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, question)
                nursery.start_soon(far.send_all, answer)
                assert await receive_exactly(far, MEBIBYTE) == question
            assert await receive_exactly(stream, MEBIBYTE) == answer
            await far.aclose()
            assert await stream.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert f"relaying to {destination} ended: closed; {MEBIBYTE} bytes up, {MEBIBYTE} down" in said()[-1]
    # Destinations of users are logged at DEBUG only.
    assert said(logging.INFO) == []


async def test_a_mebibyte_both_ways_with_flow_control(said: Callable[..., Any]) -> None:
    question, answer = os.urandom(MEBIBYTE), os.urandom(MEBIBYTE)
    async with listening() as (destination, connected), relaying() as client:
        async with opened(client, destination) as stream:
            await stream.wait_acknowledged()
            far = await connected.receive()
            received: dict[str, bytes] = {}

            async def receive(name: str, side: trio.abc.Stream) -> None:
                received[name] = await receive_exactly(side, MEBIBYTE)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, question)
                nursery.start_soon(far.send_all, answer)
                nursery.start_soon(receive, "question", far)
                nursery.start_soon(receive, "answer", stream)
            assert received == {"question": question, "answer": answer}
            await far.aclose()
            assert await stream.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert f"relaying to {destination} ended: closed; {MEBIBYTE} bytes up, {MEBIBYTE} down" in said()[-1]


@pytest.mark.parametrize("cut", range(8))
async def test_the_destination_may_come_in_pieces(cut: int) -> None:
    async with listening() as (destination, connected), relaying() as client:
        data = encode(destination) + b"and so on"
        async with await client.open_stream() as stream:
            await stream.send_all(data[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(data[cut:])
            assert await receive_exactly(await connected.receive(), 9) == b"and so on"


async def test_a_name(names: Names) -> None:
    async with (
        listening() as (destination, connected),
        relaying() as client,
        opened(client, Destination("here.example", destination.port), b"hello") as stream,
    ):
        await stream.wait_acknowledged()
        assert await receive_exactly(await connected.receive(), 5) == b"hello"
    assert names.asked == ["here.example"]


@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL], ids=["none", "all"])
async def test_a_client_that_has_closed_the_stream_is_served(extensions: Collection[str]) -> None:
    async with listening() as (destination, connected), relaying(extensions=extensions) as client:
        async with opened(client, destination, b"this was all"):
            pass
        far = await connected.receive()
        assert b"".join([bytes(piece) async for piece in far]) == b"this was all"
        await far.aclose()


async def test_the_whole_answer_comes_when_the_destination_has_ended() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(bytes(MEBIBYTE))

    async with (
        listening(answer) as (destination, _),
        relaying() as client,
        opened(client, destination, b"GET /") as stream,
    ):
        assert b"".join([piece async for piece in stream]) == bytes(MEBIBYTE)


@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, {"goaway", "window"}, {"fin"}, {"reset"}, ALL], ids=sorted)
async def test_a_destination_that_breaks_off(said: Callable[..., Any], extensions: Collection[str]) -> None:
    async with listening() as (destination, connected), relaying(extensions=extensions) as client:
        async with opened(client, destination, b"hello") as stream:
            far = await connected.receive()
            await far.receive_some()
            await reset_stream(far)
            if {"fin", "reset"} & set(extensions):
                with pytest.raises(StreamReset):
                    await stream.receive_some()
            else:
                # An abort looks like an end.
                assert await stream.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert "destination disconnected: " in said()[-1]


async def test_a_client_that_breaks_off(said: Callable[..., Any]) -> None:
    async with listening() as (destination, connected), relaying() as client, opened(client, destination, b"hello"):
        far = await connected.receive()
        await far.receive_some()
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
    assert "client disconnected: " in said()[-1]


async def test_a_client_that_resets_its_stream(said: Callable[..., Any]) -> None:
    async with (
        listening() as (destination, connected),
        relaying() as client,
        opened(client, destination, b"hello") as stream,
    ):
        await stream.wait_acknowledged()
        far = await connected.receive()
        assert await receive_exactly(far, 5) == b"hello"
        await stream.reset()
        # The request must not look complete.
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
    assert "client disconnected: the peer has reset the stream" in said()[-1]


async def test_the_end_of_the_client_reaches_the_destination(said: Callable[..., Any]) -> None:
    async with listening() as (destination, connected), relaying() as client:
        async with opened(client, destination, b"the request") as stream:
            await stream.send_eof()
            far = await connected.receive()
            assert b"".join([bytes(piece) async for piece in far]) == b"the request"
            await far.send_all(b"the answer")
            assert await stream.receive_some() == b"the answer"
            await far.send_all(b", and more")
            await far.aclose()
            assert b"".join([piece async for piece in stream]) == b", and more"
            assert stream.closed
        await trio.testing.wait_all_tasks_blocked()
    assert f"relaying to {destination} ended: closed; 11 bytes up, 20 down" in said()[-1]


async def test_the_end_of_the_destination_reaches_the_client(said: Callable[..., Any]) -> None:
    async with listening() as (destination, connected), relaying() as client:
        async with opened(client, destination) as stream:
            far = await connected.receive()
            await far.send_all(b"hello")
            await far.send_eof()
            assert b"".join([piece async for piece in stream]) == b"hello"
            # The other direction goes on.
            await stream.send_all(b"and back")
            assert await receive_exactly(far, 8) == b"and back"
            await stream.send_eof()
            assert await far.receive_some() == b""
            assert stream.closed
        await trio.testing.wait_all_tasks_blocked()
    assert f"relaying to {destination} ended: closed; 8 bytes up, 5 down" in said()[-1]


async def test_without_half_close_the_stream_stays_as_it_is() -> None:
    async with (
        listening() as (destination, connected),
        relaying(extensions=ALL - {"fin"}) as client,
        opened(client, destination, b"the request") as stream,
    ):
        far = await connected.receive()
        with pytest.raises(trioanytls.NotSupported):
            await stream.send_eof()
        await stream.send_all(b", and more")
        assert await receive_exactly(far, 21) == b"the request, and more"


@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL], ids=["none", "all"])
async def test_a_relay_that_is_cut_off(said: Callable[..., Any], extensions: Collection[str]) -> None:
    class Server:
        """A handler that is cancelled while it relays."""

        def __init__(self) -> None:
            self.scope = trio.CancelScope()
            self.relay = RelayHandler(HERE)

        async def __call__(self, stream: trioanytls.Stream) -> None:
            with self.scope:
                await self.relay(stream)

    server = Server()
    configs: dict[str, Any] = {
        "client_config": extending(extensions),
        "server_config": extending(extensions, acknowledge="manual"),
    }
    async with (
        listening() as (destination, connected),
        memory_connection_pair(server, **configs) as (client, _),
        opened(client, destination, b"hello") as stream,
    ):
        far = await connected.receive()
        assert await receive_exactly(far, 5) == b"hello"
        server.scope.cancel()
        if extensions:
            with pytest.raises(StreamReset):
                await stream.receive_some()
        else:
            assert await stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
    assert "cancelled; 5 bytes up, 0 down" in said()[-1]


# Refusing


async def refused(client: trioanytls.Connection, destination: Destination | bytes) -> None:
    async with opened(client, destination) as stream:
        with pytest.raises(StreamRefused):
            await stream.wait_acknowledged()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("::1", "::1 is a loopback address"),
        ("169.254.169.254", "is the metadata service of a cloud"),
        ("64:ff9b::7f00:1", "leads to 127.0.0.1, a loopback address"),
        ("localhost", "is a loopback address"),
        # Names that the system's resolver reads as addresses.
        ("127.1", "127.0.0.1 is a loopback address"),
        ("0x7f000001", "127.0.0.1 is a loopback address"),
        ("2130706433", "127.0.0.1 is a loopback address"),
        ("0", "0.0.0.0 is an unspecified address"),
    ],
)
async def test_forbidden_destinations(said: Callable[..., Any], host: str, reason: str) -> None:
    async with relaying(AddressPolicy()) as client:
        await refused(client, Destination(host, 80))
    assert f"refused: {Destination(host, 80)} is not allowed: " in said(logging.INFO)[-1]
    assert reason in said()[-1]


async def test_an_address_as_a_name() -> None:
    name = b"127.0.0.1"
    async with relaying(AddressPolicy()) as client:
        await refused(client, bytes([3, len(name)]) + name + b"\0\x50")


async def test_names_of_forbidden_destinations(said: Callable[..., Any], names: Names) -> None:
    async with relaying() as client:
        await refused(client, Destination("inside.example", 80))
    for reason in (
        "10.0.0.1 is a private address",
        "169.254.169.254 is the metadata service",
        "leads to 192.168.0.1, a private address",
    ):
        assert reason in said(logging.INFO)[-1]


async def test_a_name_with_something_that_may_be_connected_to(names: Names) -> None:
    async with (
        listening() as (destination, _),
        relaying() as client,
        opened(client, Destination("partly.example", destination.port)) as stream,
    ):
        await stream.wait_acknowledged()


async def test_the_checked_address_is_connected_to(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = []

    async def look(target: Resolved) -> None:
        # A second lookup returns another address.
        names.names["rebound.example"] = ["127.0.0.1"]
        targets.append(str(target.address))
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(dial, "_connect", look)
    async with relaying(AddressPolicy()) as client:
        await refused(client, Destination("rebound.example", 80))
    assert targets == ["8.8.8.8"]
    assert names.asked == ["rebound.example"]


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no.example", "cannot connect to no.example:80: the name cannot be resolved: Name or service not known"),
        ("broken.example", "the name cannot be resolved: the resolver is broken"),
        ("nothing.example", "the name has no address"),
    ],
)
async def test_names_that_do_not_resolve(said: Callable[..., Any], names: Names, host: str, reason: str) -> None:
    async with relaying() as client:
        await refused(client, Destination(host, 80))
    assert reason in said(logging.INFO)[-1]


@pytest.mark.parametrize("name", [b"." * 10, b"a" * 64 + b".example", b"x" * 255, b"a..b", b"%00", b"[::1]", b"-"])
async def test_invalid_names(said: Callable[..., Any], names: Names, name: bytes) -> None:
    async with relaying() as client:
        await refused(client, bytes([3, len(name)]) + name + b"\0\x50")
    assert "the name cannot be resolved: " in said(logging.INFO)[-1]


async def test_a_closed_port(said: Callable[..., Any]) -> None:
    with socket.socket() as held:
        held.bind((HOST, 0))
        destination = Destination(*held.getsockname())
        async with relaying() as client:
            await refused(client, destination)
    assert f"cannot connect to {destination}: {HOST}: Connection refused" in said(logging.INFO)[-1]


async def test_port_0(said: Callable[..., Any]) -> None:
    async with relaying() as client:
        await refused(client, Destination(HOST, 0))
    assert "port 0 is invalid" in said(logging.INFO)[-1]


@pytest.mark.parametrize("data", [b"\x02", b"GET / HTTP/1.1\r\n", b"\x03\0\0\0\0", b"\x03\x02a\0\0\0"])
async def test_invalid_destinations(said: Callable[..., Any], data: bytes) -> None:
    async with relaying() as client:
        await refused(client, data)
    assert "refused: " in said(logging.INFO)[-1]


@pytest.mark.parametrize("data", [b"", b"\x01\x7f"])
async def test_a_stream_that_ends_before_its_destination(said: Callable[..., Any], data: bytes) -> None:
    async with relaying() as client:
        async with opened(client, data):
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        async with opened(client, data):
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
    assert "stream closed before the destination was received" in said()[0]
    assert said(logging.INFO) == []


@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL], ids=["none", "all"])
@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (dial.NotAllowed("10.0.0.1 is private"), StreamCode.NOT_ALLOWED, "the relay's policy forbids this destination"),
        (OSError(errno.ECONNREFUSED, ""), StreamCode.CONNECTION_REFUSED, "the destination refused the connection"),
        (OSError(errno.EHOSTUNREACH, ""), StreamCode.HOST_UNREACHABLE, "the host is unreachable, or has no address"),
        (OSError(errno.ENETUNREACH, ""), StreamCode.NETWORK_UNREACHABLE, "the network is unreachable"),
        (OSError(errno.ETIMEDOUT, ""), StreamCode.TIMED_OUT, "the destination did not answer in time"),
        (trio.TooSlowError(), StreamCode.TIMED_OUT, "the destination did not answer in time"),
        (dial.Busy("16 names of alice wait"), StreamCode.LIMIT, "a limit of the relay was reached"),
    ],
)
async def test_a_refusal_says_why(
    monkeypatch: pytest.MonkeyPatch, extensions: Collection[str], failure: Exception, code: StreamCode, text: str
) -> None:
    async def fail(_targets: object) -> trio.SocketStream:
        raise failure

    if isinstance(failure, OSError):
        monkeypatch.setattr(dial, "_connect", fail)
    else:
        monkeypatch.setattr(dial, "connect", fail)
    async with (
        relaying(extensions=extensions) as client,
        opened(client, Destination(HOST, 80)) as stream,
    ):
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_acknowledged()
    told = (code, text) if extensions else (StreamCode.NOT_GIVEN, None)
    assert (caught.value.code, caught.value.reason) == told


async def test_a_refusal_for_an_invalid_request_has_no_text() -> None:
    async with relaying() as client, opened(client, b"GET / HTTP/1.1\r\n") as stream:
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_acknowledged()
    assert (caught.value.code, caught.value.reason) == (StreamCode.NOT_SUPPORTED, None)


# Timeouts


@pytest.mark.parametrize("data", [b"", b"\x03", b"\x01\x7f\0\0\x01\0"])
async def test_a_stream_without_a_complete_destination(
    autojump_clock: trio.testing.MockClock, said: Callable[..., Any], data: bytes
) -> None:
    async with relaying() as client:
        start = trio.current_time()
        await refused(client, data)
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)
    assert "no destination received within 10 s" in said(logging.INFO)[-1]


async def test_a_name_that_is_not_answered_for(
    autojump_clock: trio.testing.MockClock, said: Callable[..., Any], names: Names
) -> None:
    async with relaying(connect_timeout=7) as client:
        start = trio.current_time()
        await refused(client, Destination("never.example", 80))
        assert trio.current_time() - start == pytest.approx(7, abs=0.1)
    assert "never.example:80 did not answer within 7 s" in said(logging.INFO)[-1]


async def test_a_destination_that_does_not_answer(
    autojump_clock: trio.testing.MockClock, said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(target: Resolved) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(dial, "_connect", connect)
    async with relaying(connect_timeout=7) as client, opened(client, Destination("127.0.0.1", 80)) as stream:
        await trio.sleep(6)
        # The stream is not acknowledged before it is connected.
        assert not stream.is_acknowledged
        start = trio.current_time()
        with pytest.raises(StreamRefused):
            await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(1, abs=0.1)
    assert "127.0.0.1:80 did not answer within 7 s" in said(logging.INFO)[-1]


# Happy Eyeballs


class Sockets:
    """A network in which each address has a delay, in seconds, and may then fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **outcomes: Any) -> None:
        self.outcomes = outcomes
        self.attempts: list[tuple[str, float]] = []
        self.closed: list[str] = []
        self.names: dict[int, str] = {}
        monkeypatch.setattr(dial, "_connect", self.connect)

    async def connect(self, target: Resolved) -> trio.socket.SocketType:
        address = str(target.address)
        self.attempts.append((address, trio.current_time()))
        delay, works = self.outcomes[{"::1": "six", "::2": "more", "127.0.0.1": "four"}[address]]
        await trio.sleep(delay)
        if not works:
            raise ConnectionRefusedError(111, "Connection refused")
        one = trio.socket.socket()
        close = one.close

        def closed() -> None:
            self.closed.append(address)
            close()

        one.close = closed  # type: ignore[method-assign] # of this socket alone
        self.names[one.fileno()] = address
        return one


SIX = dial.Resolved(socket.AF_INET6, ("::1", 1, 0, 0))
MORE = dial.Resolved(socket.AF_INET6, ("::2", 1, 0, 0))
FOUR = dial.Resolved(socket.AF_INET, ("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("outcomes", "winner", "took", "attempts"),
    [
        ({"six": (0.1, True), "four": (0, True)}, "::1", 0.1, ["::1"]),
        ({"six": (0.1, False), "four": (0.1, True)}, "127.0.0.1", 0.2, ["::1", "127.0.0.1"]),
        ({"six": (9, True), "four": (0.1, True)}, "127.0.0.1", 0.35, ["::1", "127.0.0.1"]),
        ({"six": (0.3, True), "four": (9, True)}, "::1", 0.3, ["::1", "127.0.0.1"]),
        ({"six": (9, False), "four": (9, False), "more": (0, True)}, "::2", 0.5, ["::1", "127.0.0.1", "::2"]),
    ],
)
async def test_the_first_that_answers(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: dict[str, Any],
    winner: str,
    took: float,
    attempts: list[str],
) -> None:
    sockets = Sockets(monkeypatch, **outcomes)
    start = trio.current_time()
    stream = await dial.connect([SIX, FOUR, MORE])
    assert trio.current_time() - start == pytest.approx(took)
    assert sockets.names[stream.socket.fileno()] == winner
    assert [address for address, _ in sockets.attempts] == attempts
    assert sockets.closed == []
    stream.socket.close()


async def test_two_at_the_same_time(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets(monkeypatch, six=(0.5, True), four=(0.25, True))
    stream = await dial.connect([SIX, FOUR])
    # One of them was closed, or never connected.
    assert sockets.names[stream.socket.fileno()] not in sockets.closed
    stream.socket.close()


async def test_no_address_answers(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    Sockets(monkeypatch, six=(0.1, False), four=(9, False))
    with pytest.raises(dial.DialError, match=r"^::1: Connection refused; 127\.0\.0\.1: Connection refused$"):
        await dial.connect([SIX, FOUR])


async def test_connecting_is_cancelled(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = Sockets(monkeypatch, six=(9, True), four=(9, True))
    with trio.move_on_after(1) as scope:
        await dial.connect([SIX, FOUR])
    assert scope.cancelled_caught
    assert len(sockets.attempts) == 2


async def test_the_families_take_turns(names: Names) -> None:
    names.names["many.example"] = ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]
    dialer = dial.DestinationDialer(HERE)
    async with memory_connection_pair() as (_, connection):
        found = await dialer.resolve(Destination("many.example", 1), connection)
        assert [str(target.address) for target in found] == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]
        names.names["many.example"] = [f"127.0.0.{number}" for number in range(1, 200)]
        assert len(await dialer.resolve(Destination("many.example", 1), connection)) == 16


# Special hosts


async def test_a_special_destination(names: Names) -> None:
    async def answer(stream: trioanytls.Stream, destination: Destination) -> None:
        await stream.acknowledge()
        await stream.send_all(b"%d: " % destination.port)
        await stream.send_all(await stream.receive_some())

    async with (
        relaying(AddressPolicy(), special_hosts={"special.example": answer}) as client,
        opened(client, Destination("Special.EXAMPLE", 0), b"hello") as stream,
    ):
        await stream.wait_acknowledged()
        assert b"".join([piece async for piece in stream]) == b"0: hello"
    assert names.asked == []


def test_timeouts_are_those_of_the_documentation() -> None:
    assert refusals.REQUEST_TIMEOUT == 10
    assert RelayHandler(AddressPolicy()).connect_timeout == 10
