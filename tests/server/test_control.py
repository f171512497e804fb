"""Steering a running server: users, certificates, draining, and its counters."""

from __future__ import annotations

import contextlib
import functools
import random
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

import trioanytls
from trioanytls import CloseCode, Config, ServerControl, ServerStats
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.credentials import hash_password
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST, USERS
from ..helpers.raw_peer import HELLO, NEGO, PINGPONG, data
from ..helpers.server_harness import CLOSE_6, Running, eventually, last_frames, running

Clock = trio.testing.MockClock
Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Start:
    return functools.partial(running, server_context, client_context)


async def answers(connection: trioanytls.Connection) -> bool:
    """Whether a stream of this connection can be opened and used."""
    async with await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        return await stream.receive_some() == b"hello"


async def is_accepted(server: Running, password: str) -> bool:
    try:
        async with server.connect(password=password) as connection:
            return await answers(connection)
    except trioanytls.ConnectionClosed:
        return False


# Users


async def test_new_users_are_for_new_connections(start: Start) -> None:
    async with start(users={"alice": "one", "bob": "two"}) as server, server.connect(password="one") as old:
        assert await answers(old)
        server.control.replace_users({"bob": "three", "carol": "two"})
        assert await answers(old)
        assert not await is_accepted(server, "one")
        assert await is_accepted(server, "two")
        assert await is_accepted(server, "three")
        assert await answers(old)


async def test_who_has_a_password_is_told_by_the_users_of_the_moment(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue, users={"alice": "one"}) as server:
        async with server.connect(password="one") as connection:
            await connection.open_stream()
            assert (await queue.get()).connection.user == "alice"
        server.control.replace_users({"bob": "one"})
        async with server.connect(password="one") as connection:
            await connection.open_stream()
            assert (await queue.get()).connection.user == "bob"


@pytest.mark.parametrize(
    ("users", "message"), [({}, "at least one"), ({"bob": "same", "carol": "same"}, "same password")]
)
async def test_users_that_cannot_be_leave_the_old_ones(start: Start, users: dict[str, str], message: str) -> None:
    async with start() as server:
        with pytest.raises(ValueError, match=message) as caught:
            server.control.replace_users(users)
        assert "'same'" not in str(caught.value)
        assert await is_accepted(server, USERS["alice"])
        assert not await is_accepted(server, "same")


async def test_ten_thousand_users_authenticate(start: Start) -> None:
    passwords = {f"user {number}": f"password {number}" for number in range(10_000)}
    # A connection for each would take minutes: the ends of the list, and some in between.
    names = ["user 0", "user 9999", *random.sample(list(passwords), 20)]
    accepted: Counter[str] = Counter()

    async def handler(stream: trioanytls.Stream) -> None:
        accepted[stream.connection.user or ""] += 1
        await stream.send_all(b"welcome")

    async with start(handler) as server:
        server.control.replace_users(passwords)

        async def connect(name: str) -> None:
            async with server.connect(password=passwords[name]) as connection:
                stream = await connection.open_stream()
                assert await stream.receive_some() == b"welcome"

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(connect, name)
        assert accepted == Counter(names)
        assert not await is_accepted(server, "password 10000")
        assert not await is_accepted(server, USERS["alice"])


# Certificates


class Files:
    """Certificates of one authority, in files."""

    def __init__(self, authority: trustme.CA, directory: Path) -> None:
        self.authority = authority
        self._directory = directory

    def write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path

    def issue(self, name: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> tuple[Path, Path, bytes]:
        """A certificate's chain, its key, and the certificate as a client sees it."""
        issued = self.authority.issue_cert("localhost", HOST, key_type=kind)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        shown = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
        key = issued.private_key_pem.bytes()
        return self.write(f"{name}.pem", chain), self.write(f"{name}.key", key), shown


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    return Files(authority, tmp_path)


async def test_a_new_certificate_is_for_new_handshakes(start: Start, files: Files) -> None:
    async with start() as server, server.connect() as old:
        assert await answers(old)
        for name in ("first", "second"):
            chain, key, shown = files.issue(name)
            assert await server.shown_certificate() != shown
            server.control.replace_certificate(chain, key)
            assert await server.shown_certificate() == shown
            assert await answers(old)
            assert await is_accepted(server, USERS["alice"])


async def test_certificate_and_key_may_be_in_one_file(start: Start, files: Files) -> None:
    chain, key, shown = files.issue("new")
    both = files.write("both.pem", chain.read_bytes() + key.read_bytes())
    async with start() as server:
        server.control.replace_certificate(str(both))
        assert await server.shown_certificate() == shown


async def test_a_connection_whose_handshake_is_under_way_is_not_disturbed(start: Start, files: Files) -> None:
    chain, key, _ = files.issue("new")
    async with start() as server:
        transport = await server.tcp()
        await eventually(lambda: server.stats.unauthenticated == 1)
        server.control.replace_certificate(chain, key)
        peer = await server.raw(transport=transport)
        assert (await peer.receive() or (None,))[0] == FrameType.SERVER_NEGO


def encrypt(key: Path, password: str) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )


async def test_a_key_may_be_encrypted(start: Start, files: Files) -> None:
    chain, key, shown = files.issue("new")
    encrypted = files.write("encrypted.key", encrypt(key, "secret"))
    async with start() as server:
        before = await server.shown_certificate()
        with pytest.raises(ssl.SSLError):
            server.control.replace_certificate(chain, encrypted, "wrong")
        assert await server.shown_certificate() == before
        server.control.replace_certificate(chain, encrypted, "secret")
        assert await server.shown_certificate() == shown


async def test_nobody_is_asked_for_the_password_of_a_key(
    start: Start, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSSL would ask on the terminal, and the server stand still until somebody answers.
    chain, key, _ = files.issue("new")
    encrypted = files.write("encrypted.key", encrypt(key, "secret"))
    load = ssl.SSLContext.load_cert_chain

    def load_cert_chain(context: ssl.SSLContext, certificate: Path, key: Path, password: str | None = None) -> None:
        assert password is not None, "OpenSSL asks"
        load(context, certificate, key, password)

    async with start() as server:
        before = await server.shown_certificate()
        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_cert_chain)
        with pytest.raises(ssl.SSLError):
            server.control.replace_certificate(chain, encrypted)
        assert await server.shown_certificate() == before


async def test_files_that_cannot_be_used_leave_the_old_certificate(start: Start, files: Files, tmp_path: Path) -> None:
    chain, key, _ = files.issue("new")
    _, other_key, _ = files.issue("other")
    broken = files.write("broken.pem", b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    cut_off = files.write("cut_off.key", key.read_bytes()[:-60])
    empty = files.write("empty.pem", b"")
    missing = tmp_path / "missing.pem"
    async with start() as server, server.connect() as live:
        before = await server.shown_certificate()
        for certificate, its_key, error in (
            (chain, other_key, ssl.SSLError),
            (chain, None, ssl.SSLError),
            (chain, cut_off, ssl.SSLError),
            (chain, empty, ssl.SSLError),
            (broken, key, ssl.SSLError),
            (empty, key, ssl.SSLError),
            (missing, key, FileNotFoundError),
            (chain, missing, FileNotFoundError),
        ):
            with pytest.raises(error):
                server.control.replace_certificate(certificate, its_key)
            assert await server.shown_certificate() == before
        assert await is_accepted(server, USERS["alice"])
        assert await answers(live)


async def test_a_certificate_that_clients_would_not_be_shown_is_refused(start: Start, files: Files) -> None:
    # OpenSSL keeps one of each kind, and prefers ECDSA: nothing would have changed, and nobody noticed.
    async with start() as server:
        before = await server.shown_certificate()
        chain, key, _ = files.issue("rsa", trustme.KeyType.RSA)
        with pytest.raises(OSError, match="another kind"):
            server.control.replace_certificate(chain, key)
        assert await server.shown_certificate() == before
        # Not that the one of before were the only one for ever.
        chain, key, shown = files.issue("ecdsa")
        server.control.replace_certificate(chain, key)
        assert await server.shown_certificate() == shown


async def test_a_certificate_with_a_key_that_clients_prefer_is_taken(
    start: Start, files: Files, server_context: ssl.SSLContext, tmp_path: Path
) -> None:
    rsa = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, key, old = files.issue("rsa", trustme.KeyType.RSA)
    rsa.load_cert_chain(chain, key)
    async with start(ssl_context=rsa) as server:
        assert await server.shown_certificate() == old
        chain, key, shown = files.issue("ecdsa")
        server.control.replace_certificate(chain, key)
        assert await server.shown_certificate() == shown


@pytest.mark.parametrize("setting", ["alpn", "client certificates", "one group", "a name decides"])
async def test_a_context_with_settings_of_its_own(
    start: Start, files: Files, server_context: ssl.SSLContext, setting: str
) -> None:
    if setting == "alpn":
        server_context.set_alpn_protocols(["h2"])
    elif setting == "client certificates":
        server_context.verify_mode = ssl.CERT_REQUIRED
    elif setting == "one group":
        server_context.set_ecdh_curve("secp521r1")
    else:
        # Which certificate a client is shown cannot be told then, and is the application's business.
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files.authority.issue_cert(HOST).configure_cert(other)

        def choose(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            ssl_object.context = other

        server_context.sni_callback = choose
    chain, key, shown = files.issue("new")
    async with start() as server:
        server.control.replace_certificate(chain, key)
        assert (await server.shown_certificate() == shown) is (setting != "a name decides")


# Draining


async def test_a_draining_server_takes_no_connections(start: Start) -> None:
    async with start() as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        assert not server.stats.draining
        done = await server.draining(nursery)
        with pytest.raises(OSError, match=r"refused|connect"):
            await server.tcp()
        assert not server.returned.is_set()
        await trio.aclose_forcefully(peer.transport)
        await server.returned.wait()
        await done.wait()


async def test_streams_go_on_and_new_ones_are_refused(start: Start) -> None:
    async with start() as server, server.connect() as connection, trio.open_nursery() as nursery:
        stream = await connection.open_stream()
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        done = await server.draining(nursery)
        refused = await connection.open_stream()
        with pytest.raises(trioanytls.StreamRefused):
            await refused.receive_some()
        assert server.stats.streams_refused == {"drain": 1}
        # As long as it likes, until drain_timeout.
        for _ in range(3):
            await stream.send_all(b"after")
            assert await stream.receive_some() == b"after"
        assert await connection.ping() >= 0
        await stream.aclose()
        await connection.wait_closed()
        assert connection.close_reason is not None
        assert connection.close_reason.code is CloseCode.SHUTTING_DOWN
        await done.wait()
        assert server.returned.is_set()


async def test_connections_without_streams_are_closed_at_once(start: Start, mock_clock: Clock) -> None:
    # The clock stands still: at once is at once.
    async with start() as server, trio.open_nursery() as nursery:
        idle = [await server.with_streams(0) for _ in range(3)]
        busy = await server.with_streams()
        done = await server.draining(nursery)
        for peer in idle:
            assert await last_frames(peer) == [CLOSE_6]
        await eventually(lambda: server.stats.connections == 1)
        assert not done.is_set()
        await busy.send(PINGPONG)
        assert await busy.receive() == (FrameType.PINGPONG, 0, None)
        await trio.aclose_forcefully(busy.transport)
        await done.wait()


async def test_a_connection_ends_as_its_last_handler_returns(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    async with start(queue) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams(2)
        streams = sorted([await queue.get(), await queue.get()], key=lambda stream: stream.stream_id)
        done = await server.draining(nursery)
        await streams[1].aclose()
        assert await peer.receive() == (FrameType.STREAM_RST, 2, None)
        # Nothing follows yet.
        assert await peer.pending() == []
        await streams[0].aclose()
        assert await peer.receive() == (FrameType.STREAM_RST, 1, None)
        assert await peer.receive() == CLOSE_6
        # The peer has to close its side now.
        assert not done.is_set()
        await peer.transport.aclose()
        await done.wait()


async def test_a_handler_that_outlives_its_stream_is_waited_for(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    done_with_work = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        await queue(stream)
        await done_with_work.wait()

    async with start(handler) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        stream = await queue.get()
        done = await server.draining(nursery)
        await stream.aclose()
        assert await peer.pending() == [(FrameType.STREAM_RST, 1, None)]
        done_with_work.set()
        assert await last_frames(peer) == [CLOSE_6]
        await done.wait()


async def test_everything_that_was_sent_is_received_before_the_end(start: Start) -> None:
    content = random.Random(1).randbytes(1_000_000)
    go = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        await go.wait()
        await stream.send_all(content)

    config = Config(receive_buffer_size=10_000)
    async with start(handler) as server, server.connect(config=config) as connection, trio.open_nursery() as nursery:
        streams = [await connection.open_stream() for _ in range(3)]
        for stream in streams:
            await stream.wait_acknowledged()
        received = [bytearray() for _ in streams]

        async def collect(number: int) -> None:
            async for piece in streams[number]:
                received[number] += piece

        done = await server.draining(nursery)
        for number in range(len(streams)):
            nursery.start_soon(collect, number)
        go.set()
        await done.wait()
    # The end of file, not an error, has come behind them: otherwise the nursery would have raised it.
    assert received == [content] * len(streams)
    assert connection.close_reason is not None
    assert connection.close_reason.code is CloseCode.SHUTTING_DOWN


async def test_the_drain_timeout_cancels_what_is_left_and_not_before(start: Start, mock_clock: Clock) -> None:
    cancelled = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with start(handler, config=Config(drain_timeout=20)) as server, trio.open_nursery() as nursery:
        # One that has come and gone before, and that nobody waits for any more.
        async with server.connect() as gone:
            assert await gone.ping() >= 0
        await eventually(lambda: server.stats.connections == 0)
        peer = await server.with_streams()
        done = await server.draining(nursery)
        mock_clock.jump(19.99)
        assert await peer.pending() == []
        await peer.send(PINGPONG)
        assert await peer.receive() == (FrameType.PINGPONG, 0, None)
        assert not cancelled.is_set()
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        assert cancelled.is_set()
        await done.wait()
        assert server.returned.is_set()


async def test_a_stream_that_is_cut_off_does_not_look_finished(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"the first half")
        await trio.sleep_forever()

    async with start(handler) as server, contextlib.AsyncExitStack() as stack:
        streams = []
        for count in range(1, 6):
            connection = await stack.enter_async_context(server.connect())
            streams += [await connection.open_stream() for _ in range(count)]
        for stream in streams:
            assert await stream.receive_some() == b"the first half"
        await server.control.drain(0.001)
        # Not the end of file, whatever the order in which handlers and connections are cancelled.
        for stream in streams:
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                await stream.receive_some()
            assert caught.value.code is CloseCode.SHUTTING_DOWN


async def test_what_was_accepted_for_sending_is_sent_when_draining_is_cut_off(start: Start, mock_clock: Clock) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"x" * 100_000)
        await trio.sleep_forever()

    async with start(handler) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = await server.draining(nursery, 5)
        mock_clock.jump(6)
        received = await last_frames(peer)
        assert sum(len(frame[2]) for frame in received if frame[0] == FrameType.STREAM_DATA) == 100_000
        assert received[-1] == CLOSE_6
        await done.wait()


async def test_the_default_is_the_configured_time(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = await server.draining(nursery)
        mock_clock.jump(29.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        await done.wait()


@pytest.mark.parametrize(("first", "second"), [(100, 5), (5, 100)])
async def test_of_two_drains_the_earlier_end_counts(start: Start, mock_clock: Clock, first: int, second: int) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = [await server.draining(nursery, first), await server.draining(nursery, second)]
        mock_clock.jump(4.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        for event in done:
            await event.wait()


async def test_a_second_drain_counts_from_its_own_beginning(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        await server.draining(nursery, 100)
        mock_clock.jump(50)
        await server.draining(nursery, 10)
        mock_clock.jump(9.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]


async def test_draining_goes_on_when_the_call_is_cancelled(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server:
        peer = await server.with_streams()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.control.drain(10)
        assert scope.cancelled_caught
        assert server.stats.draining
        assert await peer.pending() == []
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]
        await server.returned.wait()


async def test_drain_returns_when_all_has_ended(start: Start) -> None:
    order = []

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                # A handler may take its time when it is cancelled: it is waited for.
                for _ in range(100):
                    await trio.lowlevel.checkpoint()
            order.append("handler")

    async with start(handler) as server, server.connect() as connection:
        await (await connection.open_stream()).wait_acknowledged()
        await server.control.drain(0.01)
        order.append("drain")
        assert server.stats.connections == server.stats.streams == 0
        assert not server.control.running
        await server.returned.wait()
    assert order == ["handler", "drain"]


async def test_a_server_without_connections_stops_at_once(start: Start, mock_clock: Clock) -> None:
    async with start() as server:
        await server.control.drain()
        assert server.stats.draining
        await server.returned.wait()
        # A further one has nothing to wait for.
        await server.control.drain()


async def test_a_client_in_its_tls_handshake_has_until_the_end(start: Start, mock_clock: Clock) -> None:
    async with start() as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery, 20)
        mock_clock.jump(19.99)
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats.connections == 1
        mock_clock.jump(0.02)
        await done.wait()
        assert await transport.receive_some() == b""


async def test_a_client_that_completes_its_handshake_meanwhile_is_sent_away(start: Start, mock_clock: Clock) -> None:
    async with start() as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery)
        peer = await server.raw(transport=transport)
        assert await peer.receive() is None
        await done.wait()
        assert server.stats.authentications == 0
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


@pytest.mark.parametrize("sent", [b"", HELLO[:20]])
async def test_who_has_not_authenticated_is_told_nothing(start: Start, mock_clock: Clock, sent: bytes) -> None:
    # A stranger is not to learn from the end of a server what it was.
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        raise AssertionError

    async with start(fallback=fallback) as server:
        peer = await server.raw(sent)
        await eventually(lambda: server.stats.bytes_received == len(sent))
        await trio.testing.wait_all_tasks_blocked()
        await server.control.drain()
        assert await peer.receive() is None
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


async def test_what_is_with_the_fallback_goes_on_until_the_end(start: Start, mock_clock: Clock) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        async for piece in stream:
            await stream.send_all(piece)

    async with start(fallback=fallback) as server, trio.open_nursery() as nursery:
        web = await server.raw(b"GET /")
        assert await web.transport.receive_some() == b"GET /"
        done = await server.draining(nursery, 20)
        mock_clock.jump(19.99)
        await web.transport.send_all(b"more")
        assert await web.transport.receive_some() == b"more"
        mock_clock.jump(0.02)
        # Without a word of ANYTLS.
        assert await web.transport.receive_some() == b""
        await done.wait()
        assert server.stats.connections_closed == {"FALLBACK": 1}


async def test_a_relay_that_ends_is_not_waited_for(start: Start, mock_clock: Clock) -> None:
    async with start() as upstream:
        relay = trioanytls.relay_to(HOST, upstream.port)
        async with start(fallback=relay) as server, trio.open_nursery() as nursery:
            web = await server.raw(b"GET / HTTP/1.1\r\n\r\n")
            await eventually(lambda: server.stats.fallback_connections == 1)
            done = await server.draining(nursery)
            await trio.aclose_forcefully(web.transport)
            await done.wait()


async def test_connections_in_a_nursery_of_ones_own_are_drained_too(start: Start, mock_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        others = trio.CancelScope()

        async def other() -> None:
            with others:
                await trio.sleep_forever()

        nursery.start_soon(other)
        async with start(StreamQueue(), handler_nursery=nursery) as server:
            peer = await server.with_streams()
            done = await server.draining(nursery, 20)
            mock_clock.jump(19.99)
            assert await peer.pending() == []
            assert not server.returned.is_set()
            mock_clock.jump(0.02)
            assert await last_frames(peer) == [CLOSE_6]
            await done.wait()
            await server.returned.wait()
            assert server.stats.connections == 0
            # Only what is the server's own has been cancelled.
            assert not others.cancelled_caught
            others.cancel()


async def test_cancelling_serve_leaves_the_connections_in_a_nursery_of_ones_own(start: Start) -> None:
    async with trio.open_nursery() as nursery:
        async with start(handler_nursery=nursery) as server, server.connect() as connection:
            assert await answers(connection)
            server.scope.cancel()
            await server.returned.wait()
            with pytest.raises(OSError, match=r"refused|connect"):
                await server.tcp()
            assert await answers(connection)
        nursery.cancel_scope.cancel()


# The control itself


async def test_a_control_without_a_server(start: Start) -> None:
    control = ServerControl()
    assert not control.running
    assert "without" in repr(control)
    with pytest.raises(RuntimeError, match="no server"):
        await control.drain()
    for method in (
        lambda: control.replace_users(USERS),
        lambda: control.replace_certificate("certificate.pem"),
        control.snapshot,
    ):
        with pytest.raises(RuntimeError, match="no server"):
            method()
    async with start(control=control):
        assert control.running
        assert "without" not in repr(control)
    assert not control.running


async def test_a_control_steers_one_server_at_a_time(start: Start, server_context: ssl.SSLContext) -> None:
    async with start() as server:
        with pytest.raises(RuntimeError, match="another server"):
            await trioanytls.serve(echo, 0, host=HOST, ssl_context=server_context, users=USERS, control=server.control)
        assert server.control.running
        assert await is_accepted(server, USERS["alice"])
        assert server.stats.authentications == 1
    # After one another, it may.
    async with start(control=server.control) as other:
        assert other.stats.authentications == 0
        assert await is_accepted(other, USERS["alice"])


async def test_a_server_that_cannot_listen_has_no_control(start: Start, server_context: ssl.SSLContext) -> None:
    control = ServerControl()
    async with start() as server:
        with pytest.raises(OSError, match="in use"):
            await trioanytls.serve(
                echo, server.port, host=HOST, ssl_context=server_context, users=USERS, control=control
            )
    assert not control.running
    # Draining what does not run has nothing to wait for.
    await control.drain()


async def test_the_last_counters_remain(start: Start) -> None:
    async with start() as server:
        assert await is_accepted(server, USERS["alice"])
    stats = server.control.snapshot()
    assert stats.connections_accepted == stats.authentications == stats.streams_opened == 1
    assert stats.bytes_received > 0
    assert server.control.snapshot() == stats


async def test_serve_hands_its_listeners_over(server_context: ssl.SSLContext) -> None:
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve, echo, 0, host=HOST, ssl_context=server_context, users=USERS)
        listeners = await nursery.start(serve)
        assert isinstance(listeners, list)
        assert [type(listener) for listener in listeners] == [trio.SocketListener]
        assert listeners[0].socket.getsockname()[0] == HOST
        nursery.cancel_scope.cancel()


# Counters

_reached: set[str] = set()


def reaches(*counters: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Says which counters a test makes count."""
    _reached.update(counters)
    return lambda test: test


def test_each_counter_is_reached_by_a_test() -> None:
    assert _reached == {field.name for field in attrs.fields(ServerStats)}


async def test_a_new_server_has_counted_nothing(start: Start) -> None:
    async with start() as server:
        assert server.stats == ServerStats()


@reaches("connections", "unauthenticated", "connections_accepted", "authentications", "streams", "streams_opened")
async def test_what_is_open_is_counted(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue) as server:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections_accepted == 1)
        assert (server.stats.connections, server.stats.unauthenticated) == (1, 1)
        peer = await server.raw(b"", transport=transport)
        assert (server.stats.connections, server.stats.unauthenticated, server.stats.authentications) == (1, 1, 0)
        other = await server.with_streams(2)
        streams = [await queue.get(), await queue.get()]
        stats = server.stats
        assert (stats.connections, stats.unauthenticated, stats.authentications) == (2, 1, 1)
        assert (stats.streams, stats.streams_opened) == (2, 2)
        await streams[0].aclose()
        await eventually(lambda: server.stats.streams == 1)
        await streams[1].aclose()
        await trio.aclose_forcefully(peer.transport)
        await trio.aclose_forcefully(other.transport)
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert (stats.unauthenticated, stats.streams, stats.streams_opened) == (0, 0, 2)
        assert (stats.connections_accepted, stats.authentications) == (2, 1)


@reaches("draining")
async def test_draining_is_shown(start: Start) -> None:
    async with start() as server:
        assert not server.stats.draining
        await server.control.drain()
        assert server.stats.draining


@pytest.mark.parametrize("limit", ["max_connections", "max_unauthenticated", "max_unauthenticated_per_address"])
@reaches("connections_refused")
async def test_connections_beyond_a_limit_are_counted(start: Start, limit: str) -> None:
    async with start(config=Config(**{limit: 2})) as server:
        kept = [await server.tcp() for _ in range(2)]
        await eventually(lambda: server.stats.connections == 2)
        refused = await server.tcp()
        assert await refused.receive_some() == b""
        assert server.stats.connections_refused == {limit: 1}
        # Whoever leaves makes room.
        await kept.pop().aclose()
        await eventually(lambda: server.stats.connections == 1)
        await server.with_streams(0)
        assert server.stats.connections_refused == {limit: 1}
        await trio.aclose_forcefully(kept.pop())


@reaches("connections_closed", "handshakes_failed", "authentications_failed", "violations")
@pytest.mark.parametrize(
    ("hello", "label", "expected"),
    [
        (NEGO, "UNAUTHENTICATED", {"authentications_failed": 1}),
        (frames.encode_auth(hash_password("wrong"), 0), "UNAUTHENTICATED", {"authentications_failed": 1}),
        (b"known" + frames.encode_close(CloseCode.NO_ERROR), "NO_ERROR", {"authentications": 1}),
        (b"known" + frames.encode_close(CloseCode.INTERNAL_ERROR), "INTERNAL_ERROR", {"authentications": 1}),
        (b"known" + data(1, b""), "PROTOCOL_ERROR", {"authentications": 1, "violations": 1}),
        (b"known" + b"gone", "LOST", {"authentications": 1}),
        (None, "HANDSHAKE", {"handshakes_failed": 1}),
    ],
)
async def test_how_connections_end_is_counted(
    start: Start, hello: bytes | None, label: str, expected: dict[str, int]
) -> None:
    async with start() as server:
        if hello is None:
            await (await server.tcp()).send_all(b"GET / HTTP/1.1\r\n\r\n")
        elif not hello.startswith(b"known"):
            await server.raw(hello)
        else:
            peer = await server.with_streams(0)
            if hello.endswith(b"gone"):
                await trio.aclose_forcefully(peer.transport)
            else:
                await peer.send(hello.removeprefix(b"known"))
                await last_frames(peer)
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert stats.connections_closed == {label: 1}
        failures = ("handshakes_failed", "authentications", "authentications_failed", "violations")
        counted = {name: getattr(stats, name) for name in failures}
        assert counted == dict.fromkeys(failures, 0) | expected


async def test_a_handshake_that_the_end_of_the_server_cuts_off_has_failed(start: Start) -> None:
    async with start() as server:
        await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        await server.control.drain(0.001)
        assert server.stats.connections_closed == {"HANDSHAKE": 1}


@reaches("fallbacks", "fallback_connections")
async def test_fallbacks_are_counted(start: Start) -> None:
    go = trio.Event()

    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await go.wait()

    async with start(fallback=fallback) as server:
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks == 1)
        stats = server.stats
        assert (stats.connections, stats.unauthenticated, stats.fallback_connections) == (1, 0, 1)
        assert stats.authentications_failed == 1
        go.set()
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert (stats.fallbacks, stats.fallback_connections) == (1, 0)
        assert stats.connections_closed == {"FALLBACK": 1}


@pytest.mark.parametrize("limit", ["max_fallbacks", "max_fallbacks_per_address"])
@reaches("fallbacks_refused", "fallbacks_displaced")
async def test_fallbacks_beyond_a_limit_are_counted(start: Start, mock_clock: Clock, limit: str) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await trio.sleep_forever()

    async with start(fallback=fallback, config=Config(**{limit: 1})) as server:
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallback_connections == 1)
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks_refused == {limit: 1})
        mock_clock.jump(6)
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks == 2)
        await eventually(lambda: server.stats.connections == 1)
        stats = server.stats
        assert (stats.fallbacks_displaced, stats.fallback_connections) == (1, 1)
        assert stats.connections_closed == {"UNAUTHENTICATED": 1, "FALLBACK": 1}


@pytest.mark.parametrize("limit", ["max_streams", "max_stream_rate"])
@reaches("streams_refused")
async def test_streams_beyond_a_limit_are_counted(start: Start, mock_clock: Clock, limit: str) -> None:
    async with start(StreamQueue(), config=Config(**{limit: 2})) as server:
        await server.raw(HELLO + b"".join(frames.encode_open(number) for number in (1, 2, 3, 4, 5)))
        await eventually(lambda: server.stats.streams_opened == 5)
        assert server.stats.streams_refused == {limit: 3}
        assert server.stats.streams == 2


@reaches("streams_timed_out")
async def test_streams_that_are_idle_are_counted(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=Config(stream_idle_timeout=20)) as server:
        await server.with_streams()
        mock_clock.jump(21)
        await eventually(lambda: server.stats.streams == 0)
        assert server.stats.streams_timed_out == {"IDLE": 1}


async def test_streams_that_hold_others_up_are_counted(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=Config(receive_buffer_size=1000, stall_timeout=20)) as server:
        peer = await server.with_streams(2)
        await peer.send(data(1, bytes(5000)))
        await eventually(lambda: server.stats.bytes_received > 5000)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(21)
        await eventually(lambda: sum(server.stats.streams_timed_out.values()) == 1)
        assert server.stats.streams_timed_out == {"STALLED": 1}


@reaches("handlers_failed")
async def test_handlers_that_fail_are_counted(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        async for _ in stream:
            raise ZeroDivisionError

    async with start(handler) as server, server.connect() as connection:
        for expected in (1, 2):
            stream = await connection.open_stream()
            await stream.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(await stream.receive_some() or b"gone")
            assert server.stats.handlers_failed == expected
        # That its peer goes away is no failure of a handler.
        stream = await connection.open_stream()
        await stream.wait_acknowledged()
        await connection.aclose()
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.handlers_failed == 2


@reaches("bytes_received", "bytes_sent")
async def test_bytes_are_counted_while_a_connection_lasts_and_after_it(start: Start) -> None:
    async with start() as server:
        async with server.connect() as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"x" * 10_000)
            received = 0
            while received < 10_000:
                received += len(await stream.receive_some())
            await connection.ping()
            # What is shaped goes out in several pieces.
            await eventually(lambda: server.stats.bytes_received == connection.stats.bytes_sent)
            before = server.stats
            assert before.bytes_received > 10_000
            assert before.bytes_sent == connection.stats.bytes_received
        await eventually(lambda: server.stats.connections == 0)
        # Padding behind CLOSE is not read any more.
        assert before.bytes_received < server.stats.bytes_received <= connection.stats.bytes_sent
        assert server.stats.bytes_sent == before.bytes_sent


async def test_a_snapshot_stands_still(start: Start) -> None:
    async with start() as server:
        assert not await is_accepted(server, "wrong")
        await eventually(lambda: server.stats.connections == 0)
        before = server.stats
        copy = attrs.evolve(before, connections_closed=dict(before.connections_closed))
        assert not await is_accepted(server, "wrong")
        await eventually(lambda: server.stats.connections == 0)
        assert before == copy
        assert server.stats.connections_closed == {"UNAUTHENTICATED": 2}


_counts = st.integers(0, 2**40)
_labels = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 2**40))
_stats = st.builds(
    ServerStats,
    **{
        field.name: {"bool": st.booleans(), "int": _counts, "_COUNTS": _labels}[str(field.type)]
        for field in attrs.fields(ServerStats)
    },
)


@settings(max_examples=50, deadline=None)
@given(_stats, _stats, _stats)
def test_adding_snapshots(one: ServerStats, two: ServerStats, three: ServerStats) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + ServerStats() == one
    total = one + two
    for field in attrs.fields(ServerStats):
        first, second, both = (getattr(stats, field.name) for stats in (one, two, total))
        if isinstance(both, bool):
            assert both == (first or second)
        elif isinstance(both, int):
            assert both == first + second
        else:
            assert both == {label: first.get(label, 0) + second.get(label, 0) for label in {*first, *second}}
