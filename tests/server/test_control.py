"""Control of a running server: users, certificates, and the control itself."""

from __future__ import annotations

import random
import ssl
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

import trioanytls
from trioanytls import ServerControl
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST, USERS
from ..helpers.server_harness import Start, answers, eventually, is_accepted

Clock = trio.testing.MockClock


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


async def test_the_user_of_a_password_is_looked_up_in_the_current_users(start: Start) -> None:
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
async def test_invalid_users_leave_the_old_ones(start: Start, users: dict[str, str], message: str) -> None:
    async with start() as server:
        with pytest.raises(ValueError, match=message) as caught:
            server.control.replace_users(users)
        assert "'same'" not in str(caught.value)
        assert await is_accepted(server, USERS["alice"])
        assert not await is_accepted(server, "same")


async def test_ten_thousand_users_authenticate(start: Start) -> None:
    passwords = {f"user {number}": f"password {number}" for number in range(10_000)}
    # A connection for each user would take minutes. These are the ends of the list and a sample.
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
        """Issue a certificate. Return its chain, its key, and the certificate as a client sees it."""
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


async def test_a_handshake_in_progress_is_not_affected(start: Start, files: Files) -> None:
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


async def test_openssl_does_not_ask_for_the_password_of_a_key(
    start: Start, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSSL would ask on the terminal, and block the server until it is answered.
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


async def test_unusable_files_leave_the_old_certificate(start: Start, files: Files, tmp_path: Path) -> None:
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
    # OpenSSL keeps one certificate of each kind and prefers ECDSA: the change would have no effect, silently.
    async with start() as server:
        before = await server.shown_certificate()
        chain, key, _ = files.issue("rsa", trustme.KeyType.RSA)
        with pytest.raises(OSError, match="another kind"):
            server.control.replace_certificate(chain, key)
        assert await server.shown_certificate() == before
        # A later change still works.
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


@pytest.mark.parametrize("setting", ["alpn", "client certificates", "one group", "SNI callback"])
async def test_a_context_with_other_settings(
    start: Start, files: Files, server_context: ssl.SSLContext, setting: str
) -> None:
    if setting == "alpn":
        server_context.set_alpn_protocols(["h2"])
    elif setting == "client certificates":
        server_context.verify_mode = ssl.CERT_REQUIRED
    elif setting == "one group":
        server_context.set_ecdh_curve("secp521r1")
    else:
        # The application selects the certificate that a client is shown.
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files.authority.issue_cert(HOST).configure_cert(other)

        def choose(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            ssl_object.context = other

        server_context.sni_callback = choose
    chain, key, shown = files.issue("new")
    async with start() as server:
        server.control.replace_certificate(chain, key)
        assert (await server.shown_certificate() == shown) is (setting != "SNI callback")


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


async def test_a_control_is_for_one_server_at_a_time(start: Start, server_context: ssl.SSLContext) -> None:
    async with start() as server:
        with pytest.raises(RuntimeError, match="another server"):
            await trioanytls.serve(echo, 0, host=HOST, ssl_context=server_context, users=USERS, control=server.control)
        assert server.control.running
        assert await is_accepted(server, USERS["alice"])
        assert server.stats.authentications == 1
    # It can be used for another server later.
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
    # Draining a server that is not running returns at once.
    await control.drain()
