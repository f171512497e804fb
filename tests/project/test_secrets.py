"""`repr` shows no password, no hash of one, and no field that may contain one."""

from __future__ import annotations

import base64
import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PaddingScheme
from trioanytls._client.connect import Endpoint
from trioanytls._client.pool import Client
from trioanytls._config import PoolConfig
from trioanytls._connection import close_reason
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._protocol.exceptions import AuthenticationFailed
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import ServerContext
from trioanytls._workers.handle import WorkerHandle
from trioanytls._workers.ipc import Channel
from trioanytls._workers.supervisor import Supervisor
from trioanytls.cli.client.settings import ClientSettings
from trioanytls.cli.common import toml_lines
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.server.settings import ParsedOptions, Secrets, WorkerSettings
from trioanytls.cli.server.users import UserSource as PasswordSources
from trioanytls.relay.http_heads import Answer, HTTPRequest
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.testing import RecordedTransport, echo, memory_connection_pair

for _module in pkgutil.walk_packages(trioanytls.__path__, "trioanytls."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

SECRET = "correct horse battery staple"
HASH = hash_password(SECRET)
#: The forms in which a secret could be shown.
FORMS = [
    SECRET,
    SECRET.replace(" ", "%20"),
    HASH.hex(),
    repr(HASH)[2:-1],
    repr(HASH)[2:-1][:16],
    base64.b64encode(f"user:{SECRET}".encode()).decode(),
    hashlib.sha256(SECRET.encode()).hexdigest(),
]


def classes() -> Iterator[type]:
    """Find the attrs classes of the package whose `repr` is made from their fields."""
    found = {
        one
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").split(".")[0] == "trioanytls"
        for one in vars(module).values()
        if inspect.isclass(one) and one.__module__.split(".")[0] == "trioanytls" and attrs.has(one)
    }
    for one in sorted(found, key=lambda one: (one.__module__, one.__name__)):
        generated = one.__dict__.get("__repr__")
        if generated is not None and generated.__code__.co_filename.startswith("<attrs"):
            yield one


#: What fields with secrets are called: the passwords themselves, and what carries them unread.
SUSPECT = re.compile(
    r"passw|secret|credential|token|hash|\bkey|environment|options|headers|\bfields|values|settings|outbox|send_queue"
    r"|unconsumed|\bsent$|_sent$|received$|buffer|users$"
)
#: Those that have none, and why.
HARMLESS = {
    ("_server.context.ServerContext", "users"): "its `repr` says nothing",
    ("cli.server.certificate_files.CertificateFiles", "key"): "the name of a file",
    ("cli.server.users.UserSource", "password_file"): "the name of a file",
    ("cli.server.settings.Secrets", "users"): "a `users.UserSource`, which hides its own",
    ("cli.server.settings.ServerSettings", "secrets"): "a `Secrets`, see above",
    ("relay.http_proxy.HTTPProxy", "users"): "a `ProxyUsers`, which hides them",
    ("relay.socks_proxy.SOCKSProxy", "users"): "a `ProxyUsers`, which hides them",
    ("_metrics_endpoint._Response", "headers"): "of a response about counters",
    ("Config", "receive_buffer_size"): "a number",
    ("Config", "connection_receive_buffer_size"): "a number",
    ("Config", "send_buffer_size"): "a number",
    ("ConnectionStats", "frames_sent"): "a number of each",
    ("ConnectionStats", "frames_received"): "a number of each",
    ("ConnectionStats", "data_bytes_sent"): "a number",
    ("ConnectionStats", "data_bytes_received"): "a number",
    ("ConnectionStats", "padding_bytes_sent"): "a number",
    ("ConnectionStats", "padding_bytes_received"): "a number",
    ("ConnectionStats", "bytes_sent"): "a number",
    ("ConnectionStats", "bytes_received"): "a number",
    ("_client.pooled_connection.PoolCallbacks", "scheme_received"): "a function",
    ("_connection.copy.CopyDirection", "on_sent"): "a function",
    ("_connection.copy.CopyDirection", "on_received"): "a function",
    ("ServerStats", "bytes_sent"): "a number",
    ("ServerStats", "bytes_received"): "a number",
    ("_server.stats._EventCounts", "bytes_sent"): "a number",
    ("_server.stats._EventCounts", "bytes_received"): "a number",
    ("_server.stats.ServerCounters", "bytes_sent"): "a number",
    ("_server.stats.ServerCounters", "bytes_received"): "a number",
}


def test_no_field_that_may_have_a_secret_is_shown() -> None:
    shown = {
        (f"{one.__module__}.{one.__name__}".removeprefix("trioanytls."), field.name)
        for one in classes()
        for field in attrs.fields(one)
        if field.repr and SUSPECT.search(field.name.lstrip("_"))
    }
    assert shown - HARMLESS.keys() == set()
    # Every exemption is needed.
    assert HARMLESS.keys() - shown == set()


def server_settings(tmp_path: Path) -> dict[str, object]:
    """Return settings of the command `server`, with the secret in every field that takes one."""
    path = tmp_path / "server.toml"
    path.write_text(f'password = "{SECRET}"\n[users]\nalice = "{SECRET}"\n', encoding="utf-8")
    document = toml_lines.Document(path, {"password": SECRET, "users": {"alice": SECRET}}, {})
    given = ParsedOptions({"password_insecure": SECRET}, document, lambda _name: True, SECRET)
    sources = PasswordSources(password=SECRET)
    return {
        "Document": document,
        "ParsedOptions": given,
        "passwords.UserTable": sources,
        "Secrets": Secrets(users=sources, certificate=None, state=None, host="x"),
    }


async def all_objects(tmp_path: Path) -> Mapping[str, object]:
    users = {"alice": SECRET}
    authorization = b"Basic " + base64.b64encode(f"user:{SECRET}".encode())
    uri = trioanytls.ServerURI("host.example", SECRET)
    scheme, config = PaddingScheme.DEFAULT, trioanytls.Config()

    async def dial(_timeout: float) -> trio.abc.Stream:
        raise OSError

    server = ServerProtocol(UserTable(users), scheme)
    server.handshake_done()
    first = b"".join(ClientProtocol(SECRET, scheme).first_frames(0))
    list(server.receive(first[:40]))
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    await recorded.send_all(first)
    await far.aclose()
    settings = attrs.fields_dict(Supervisor)["_settings"], attrs.fields_dict(WorkerHandle)["_unsent"]
    assert not any(field.repr for field in settings)
    channel = Channel.__new__(Channel)
    channel._stream, channel.max_size, channel._sending = None, 1, None  # type: ignore[assignment]
    channel._buffer = bytearray(SECRET.encode())
    serving = WorkerSettings.__new__(WorkerSettings)
    for field in attrs.fields(WorkerSettings):
        object.__setattr__(serving, field.name, users if field.name == "users" else None)
    client_fields: dict[str, Any] = {
        **{field.name: None for field in attrs.fields(ClientSettings) if field.default is attrs.NOTHING},
        "server": uri,
        "proxy_users": users,
    }
    return {
        "ServerURI": uri,
        "parse_uri": trioanytls.parse_uri(trioanytls.format_uri(uri)),
        "UserTable": UserTable(users),
        "ServerContext": ServerContext(echo, UserTable(users), scheme, config),
        "ClientProtocol": ClientProtocol(SECRET, scheme),
        "ServerProtocol": server,
        "Client": Client(
            dial, key="x:1", password=SECRET, padding_scheme=None, config=config, pool=PoolConfig(), scheme_store=None
        ),
        "Endpoint": Endpoint("x", 1, None, None, None),
        "ClientSettings": ClientSettings(**client_fields),
        "ProxyUsers": ProxyUsers(users),
        "HTTPRequest": HTTPRequest(
            b"GET", f"http://user:{SECRET}@x/".encode(), 1, [(b"Proxy-Authorization", authorization)]
        ),
        "Answer": Answer(200, b"OK", 1, [(b"Set-Cookie", SECRET.encode())]),
        "CloseReason": close_reason.handed_over(AuthenticationFailed("no user has this password"), first),
        "RecordedTransport": recorded,
        "Channel": channel,
        "WorkerSettings": serving,
        **server_settings(tmp_path),
    }


async def test_no_object_shows_a_secret(tmp_path: Path) -> None:
    for name, one in (await all_objects(tmp_path)).items():
        for text in (repr(one), str(one), f"{one}", repr([one])):
            assert [form for form in FORMS if form in text] == [], name


async def test_a_connection_shows_no_secret() -> None:
    async with memory_connection_pair() as (client, server):
        stream = await client.open_stream()
        await client.ping()
        assert isinstance(server, ServerConnection)
        for one in (
            client,
            server,
            stream,
            client._multiplexer,
            client._reader,
            client._multiplexer.writer,
            client._multiplexer.send_queue,
            server._context,
        ):
            # The password of `memory_connection_pair`.
            assert not re.search(r"'password'|5e884898|\\x88H\\x98", repr(one))


def test_the_key_of_a_certificate_is_not_shown() -> None:
    made = make_certificate("relay.example")
    assert b"PRIVATE KEY" in made.key
    assert "PRIVATE KEY" not in repr(made)


def test_a_password_that_cannot_be_encoded_is_not_shown() -> None:
    password = SECRET + "\ud800"
    for use in (hash_password, lambda one: UserTable({"alice": one}), lambda one: trioanytls.ServerURI("x", one)):
        with pytest.raises(ValueError, match="encoded") as caught:
            use(password)
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in str(error) + repr(error) + repr(error.args)
            error = error.__cause__ or error.__context__
