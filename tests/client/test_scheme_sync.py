"""The padding scheme of a client: it applies to the next connection, and to the next start."""

from __future__ import annotations

import functools
import logging
import ssl
import threading
from pathlib import Path

import pytest
import trio

import trioanytls
from trioanytls import FileSchemeStore, PaddingScheme, PoolConfig
from trioanytls._client.dialer import Dialer
from trioanytls._client.pool import Client
from trioanytls._protocol.anytls1 import frames
from trioanytls.testing import RecordedTransport

from ..conftest import HOST, USERS, Serving
from ..helpers.pool_harness import Clock, MemoryServer, client_of, memory_server, use, work
from ..helpers.raw_peer import SERVER_NEGO, RawPeer
from ..helpers.server_harness import eventually

DEFAULT = PaddingScheme.DEFAULT
OTHER = PaddingScheme.parse(b"stop=2\n0=10-10\n1=300-400\n")
THIRD = PaddingScheme.parse(b"stop=1\n0=0-0\n")
KEY = "server.example:443"
#: One stream after the other, each on a new connection.
NEW_EACH_TIME = PoolConfig(max_lifetime=1e-9)


@pytest.fixture
def store(tmp_path: Path) -> FileSchemeStore:
    return FileSchemeStore(tmp_path / "schemes")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.name for record in records} <= {"trioanytls.client"}
    return [record.getMessage() for record in records]


def announced(sent: list[bytes]) -> str:
    """Return the digest in the client's NEGO, as sent on the wire."""
    return b"".join(sent).split(b"padding-md5=")[1][:32].decode()


async def test_a_scheme_serves_the_next_connection_and_the_next_start(
    autojump_clock: Clock, store: FileSchemeStore
) -> None:
    async with memory_server(padding_scheme=OTHER) as server:
        async with client_of(server, pool=NEW_EACH_TIME, scheme_store=store, key=KEY) as client:
            first = await client.open_stream()
            assert (client.padding_scheme, first.connection.padding_scheme) == (DEFAULT, DEFAULT)
            await use(first)
            await trio.sleep(1)
            assert client.padding_scheme == OTHER
            # The connection that has brought it continues with its own scheme.
            await use(first)
            assert first.connection.padding_scheme == DEFAULT
            assert (await work(client)).padding_scheme == OTHER
        assert [announced(link.sent) for link in server.links] == [DEFAULT.digest, OTHER.digest]
        assert store.load(KEY) == OTHER
        async with client_of(server, scheme_store=FileSchemeStore(store.directory), key=KEY) as client:
            assert client.padding_scheme == OTHER
            connection = await work(client)
            # The server sends no scheme, as the client has the right one.
            assert connection.server_padding_scheme is None
        assert announced(server.links[-1].sent) == OTHER.digest
        # Line 0 of the scheme is the length of the padding in AUTH, which follows the type and the hash.
        assert server.links[-1].sent[0][2 + 32 : 2 + 32 + 1] == bytes([10])
        # The scheme of another server is not affected.
        async with client_of(server, scheme_store=store, key="another.example:443") as client:
            assert client.padding_scheme == DEFAULT


async def test_a_scheme_that_changes_is_followed(autojump_clock: Clock, store: FileSchemeStore) -> None:
    async with memory_server() as server, client_of(server, pool=NEW_EACH_TIME, scheme_store=store, key=KEY) as client:
        for scheme in (OTHER, THIRD, DEFAULT, OTHER):
            server.padding_scheme = scheme
            await work(client)
            await trio.sleep(1)
            assert client.padding_scheme == scheme
            await eventually(lambda scheme=scheme: store.load(KEY) == scheme)  # type: ignore[misc]  # its default binds the loop's variable


async def test_without_a_store_it_is_remembered_as_long_as_the_client_lives(autojump_clock: Clock) -> None:
    async with memory_server(padding_scheme=OTHER) as server:
        for _ in range(2):
            async with client_of(server, pool=NEW_EACH_TIME) as client:
                await work(client)
                await trio.sleep(1)
                await work(client)
        assert [announced(link.sent) for link in server.links] == [DEFAULT.digest, OTHER.digest] * 2


async def test_what_the_caller_gives_is_for_the_beginning_only(autojump_clock: Clock, store: FileSchemeStore) -> None:
    async with memory_server(padding_scheme=OTHER) as server:
        for expected in (THIRD, OTHER):
            async with client_of(server, padding_scheme=THIRD, scheme_store=store) as client:
                assert client.padding_scheme == expected
                await work(client)
        assert [announced(link.sent) for link in server.links] == [THIRD.digest, OTHER.digest]


async def test_a_corrupt_file_is_reported_and_replaced(
    autojump_clock: Clock, store: FileSchemeStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(KEY, THIRD)
    store.path(KEY).write_bytes(b"stop=8\n1=oops")
    async with memory_server(padding_scheme=OTHER) as server, client_of(server, scheme_store=store, key=KEY) as client:
        assert client.padding_scheme == DEFAULT
        await work(client)
    (warning,) = warnings_of(caplog)
    assert warning.startswith("ignoring the padding scheme in ")
    assert store.load(KEY) == OTHER


BAD = {
    "no scheme": b"stop=8\n1=oops\n",
    "no text": b"\xff\xfe",
    "too large": b"stop=2\n" + b"".join(b"%d=1-2\n" % number for number in range(100)),
    "too many": b"stop=101\n",
    "a deliver too large": b"stop=2\n1=3000-3000,c,2001-2001\n",
    "too large in all": b"stop=4\n1=4000-4000\n2=4000-4000\n3=2001-2001\n",
    "nothing": b"",
}


@pytest.mark.parametrize("block", BAD.values(), ids=BAD.keys())
async def test_a_scheme_that_cannot_be_used_ends_the_connection_and_is_not_kept(
    autojump_clock: Clock, store: FileSchemeStore, block: bytes
) -> None:
    config = trioanytls.Config(
        max_scheme_size=200, max_scheme_stop=100, max_scheme_deliver=5000, max_scheme_total=10_000
    )
    async with trio.open_nursery() as nursery, memory_server() as server:

        async def dial(_timeout: float) -> trio.abc.Stream:
            near, far = trio.testing.memory_stream_pair()

            async def answer() -> None:
                await far.receive_some()
                await RawPeer(far).send(SERVER_NEGO, frames.encode_padding_update_scheme(block))

            nursery.start_soon(answer)
            return near

        async with client_of(server, dial=dial, config=config, scheme_store=store, key=KEY) as client:
            stream = await client.open_stream()
            with pytest.raises(trioanytls.ConnectionClosed, match="PADDING_UPDATE_SCHEME") as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, trioanytls.ProtocolViolation)
            assert client.padding_scheme == DEFAULT
    assert store.load(KEY) is None
    assert not store.directory.exists()


@pytest.mark.parametrize(
    ("scheme", "accepted"),
    [
        (b"stop=100\n", True),
        (b"stop=101\n", False),
        (BAD["too large"], False),
        (b"stop=2\n1=3000-3000,c,2000-2000\n", True),
        (BAD["a deliver too large"], False),
        (b"stop=4\n1=4000-4000\n2=4000-4000\n3=2000-2000\n", True),
        (BAD["too large in all"], False),
    ],
)
async def test_one_beyond_the_limits_is_not_loaded_either(
    autojump_clock: Clock, store: FileSchemeStore, caplog: pytest.LogCaptureFixture, scheme: bytes, accepted: bool
) -> None:
    config = trioanytls.Config(
        max_scheme_size=200, max_scheme_stop=100, max_scheme_deliver=5000, max_scheme_total=10_000
    )
    store.save(KEY, PaddingScheme.parse(scheme))
    async with memory_server() as server, client_of(server, config=config, scheme_store=store, key=KEY) as client:
        assert (client.padding_scheme != DEFAULT) is accepted
        await work(client)
    assert len(warnings_of(caplog)) == (not accepted)


class Failing:
    """A store whose methods raise exceptions."""

    def load(self, _key: str) -> PaddingScheme | None:
        raise ZeroDivisionError("cannot load")

    def save(self, _key: str, _scheme: PaddingScheme) -> None:
        raise ZeroDivisionError("cannot save")


async def test_a_store_that_fails_is_reported_and_harms_nothing(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        memory_server(padding_scheme=OTHER) as server,
        client_of(server, pool=NEW_EACH_TIME, scheme_store=Failing()) as client,
    ):
        for _ in range(3):
            await work(client)
            await trio.sleep(1)
        assert client.padding_scheme == OTHER
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in errors] == [
        "memory:1: cannot load the saved padding scheme",
        "memory:1: cannot save the padding scheme",
    ]
    assert all("ZeroDivisionError" in str(record.exc_text) for record in errors)


class Slow:
    """A store whose first save blocks until `go_on` is set."""

    def __init__(self) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self.kept: PaddingScheme | None = None
        self.saving = self.most = 0

    def load(self, _key: str) -> PaddingScheme | None:
        return self.kept

    def save(self, _key: str, scheme: PaddingScheme) -> None:
        self.saving += 1
        self.most = max(self.most, self.saving)
        if not self.started.is_set():
            self.started.set()
            assert self.go_on.wait(30)
        self.kept = scheme
        self.saving -= 1


async def test_the_last_scheme_is_what_remains_however_slow_the_store_is() -> None:
    store = Slow()
    async with (
        memory_server(padding_scheme=OTHER) as server,
        trio.open_nursery() as nursery,
        client_of(server, scheme_store=store) as client,
    ):
        await remember(client, server, OTHER)
        await trio.to_thread.run_sync(store.started.wait, 30)
        await remember(client, server, THIRD)

        async def let_go() -> None:
            # Wait until only the save of the closing client is left.
            await eventually(lambda: client.closed and not client.stats.connections)
            # A second thread would have enough time to save as well.
            await trio.sleep(0.02)
            store.go_on.set()

        nursery.start_soon(let_go)
    assert store.kept == THIRD
    assert store.most == 1


async def remember(client: Client, server: MemoryServer, scheme: PaddingScheme) -> None:
    server.padding_scheme = scheme
    connection = await work(client)
    await eventually(lambda: client.padding_scheme == scheme)
    client._leases.connections[-1].retire("idle")
    await connection.wait_closed()


async def test_over_tls_and_with_the_servers_word_for_it(
    serving: Serving, client_context: ssl.SSLContext, store: FileSchemeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[RecordedTransport] = []
    dial = Dialer.dial

    async def record(self: Dialer, within: float) -> trio.abc.Stream:
        recorded.append(RecordedTransport(await dial(self, within)))
        return recorded[-1]

    monkeypatch.setattr(Dialer, "dial", record)
    seen: list[str | None] = []

    async def handler(stream: trioanytls.Stream) -> None:
        seen.append(stream.connection.peer_identifier)

    connect = functools.partial(
        trioanytls.open_client,
        HOST,
        password=USERS["alice"],
        ssl_context=client_context,
        scheme_store=store,
    )
    async with serving(handler, padding_scheme=OTHER) as port:
        for expected in ([DEFAULT, OTHER], [OTHER]):
            async with connect(port=port) as client:
                for scheme in expected:
                    with trio.fail_after(20):
                        async with await client.open_stream() as stream:
                            await stream.wait_closed()
                            assert stream.connection.padding_scheme == scheme
                            server_wants = stream.connection.server_padding_scheme
                            assert server_wants == (None if scheme == OTHER else OTHER)
                    client._leases.connections[-1].retire("idle")
    assert [announced(transport.sent) for transport in recorded] == [DEFAULT.digest, OTHER.digest, OTHER.digest]
    assert seen == [f"trioanytls/{trioanytls.__version__}"] * 3
    assert store.load(f"{HOST}:{port}") == OTHER
