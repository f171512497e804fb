"""Arguments of the client's public functions: a wrong type is a `TypeError` that names the argument."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import (
    Config,
    FileSchemeStore,
    PaddingScheme,
    PoolConfig,
    ServerURI,
    format_uri,
    open_client,
    open_client_uri,
    open_connection,
    parse_uri,
    wrap_client,
)

SECRET = b"hunter2"
DEFAULT = PaddingScheme.DEFAULT
URI = ServerURI("example.com", "password")

#: An argument of every way to make a connection, a value of a wrong type, the error.
CONNECTION = [
    ("password", SECRET, "password must be str, not bytes"),
    ("password", None, "password must be str, not NoneType"),
    ("padding_scheme", "stop=8", "padding_scheme must be PaddingScheme or None, not str"),
    ("padding_scheme", DEFAULT.to_bytes(), "padding_scheme must be PaddingScheme or None, not bytes"),
    ("config", None, "config must be Config, not NoneType"),
    ("config", PoolConfig(), "config must be Config, not PoolConfig"),
    ("config", Config, "config must be Config, not type"),
]
ENDPOINT = [
    ("host", b"localhost", "host must be str, not bytes"),
    ("host", None, "host must be str, not NoneType"),
    ("port", "8443", "port must be int, not str"),
    ("port", None, "port must be int, not NoneType"),
    ("port", 8443.0, "port must be int, not float"),
    ("port", True, "port must be int, not bool"),
    ("ssl_context", "cert.pem", "ssl_context must be SSLContext or None, not str"),
    ("ssl_context", False, "ssl_context must be SSLContext or None, not bool"),
    ("server_hostname", b"localhost", "server_hostname must be str or None, not bytes"),
    ("pin", bytes(32), "pin must be a sequence of str or None, not bytes"),
    ("pin", [bytes(32)], "each of pin must be str, not bytes"),
    ("pin", 1, "pin must be a sequence of str or None, not int"),
]
POOL = [
    ("pool", None, "pool must be PoolConfig, not NoneType"),
    ("pool", Config(), "pool must be PoolConfig, not Config"),
    ("pool", 4, "pool must be PoolConfig, not int"),
    ("scheme_store", "schemes", "scheme_store must be an object with load and save, not str"),
    (
        "scheme_store",
        FileSchemeStore,
        "scheme_store must be an object with load and save, not the class FileSchemeStore",
    ),
    ("events", print, "events must be ClientEvents or None, not builtin_function_or_method"),
    ("events", trioanytls.ClientEvents, "events must be ClientEvents or None, not type"),
]


async def assert_refused(manager: AbstractAsyncContextManager[object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        async with manager:
            pytest.fail("the block was run")


@pytest.mark.parametrize(("name", "value", "message"), [*ENDPOINT, *CONNECTION])
async def test_open_connection(name: str, value: object, message: str) -> None:
    arguments: dict[str, Any] = {"host": "localhost", "port": 1, "password": "password", name: value}
    await assert_refused(open_connection(**arguments), message)


@pytest.mark.parametrize(("name", "value", "message"), [*ENDPOINT, *CONNECTION, *POOL])
async def test_open_client(name: str, value: object, message: str) -> None:
    arguments: dict[str, Any] = {"host": "localhost", "port": 1, "password": "password", name: value}
    await assert_refused(open_client(**arguments), message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("uri", b"anytls://password@localhost", "uri must be str or ServerURI, not bytes"),
        ("uri", None, "uri must be str or ServerURI, not NoneType"),
        *[case for case in CONNECTION if case[0] != "password"],
        *POOL,
    ],
)
async def test_open_client_uri(name: str, value: object, message: str) -> None:
    arguments: dict[str, Any] = {"uri": "anytls://password@localhost", name: value}
    await assert_refused(open_client_uri(**arguments), message)


@pytest.mark.parametrize(("name", "value", "message"), CONNECTION)
async def test_wrap_client_closes_the_transport(name: str, value: object, message: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    arguments: dict[str, Any] = {"password": "password", name: value}
    await assert_refused(wrap_client(near, **arguments), message)
    assert await far.receive_some() == b""


@pytest.mark.parametrize("transport", [None, "localhost", trio.testing.memory_stream_pair])
async def test_wrap_client_takes_a_stream(transport: Any) -> None:
    message = f"transport must be Stream, not {type(transport).__name__}"
    await assert_refused(wrap_client(transport, password="password"), message)


STORE = FileSchemeStore("schemes")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (parse_uri, [b"anytls://hunter2@example.com"], "text must be str, not bytes"),
        (parse_uri, [None], "text must be str, not NoneType"),
        (parse_uri, [URI], "text must be str, not ServerURI"),
        (format_uri, ["anytls://hunter2@example.com"], "uri must be ServerURI, not str"),
        (format_uri, [None], "uri must be ServerURI, not NoneType"),
        (ServerURI, [b"example.com", "pw"], "host must be str, not bytes"),
        (ServerURI, ["example.com", SECRET], "password must be str, not bytes"),
        (ServerURI, ["example.com", None], "password must be str, not NoneType"),
        (ServerURI, ["example.com", "pw", "443"], "port must be int, not str"),
        (ServerURI, ["example.com", "pw", True], "port must be int, not bool"),
        (ServerURI, ["example.com", "pw", None], "port must be int, not NoneType"),
        (partial(ServerURI, sni=b"example.com"), ["example.com", "pw"], "sni must be str or None, not bytes"),  # type: ignore[arg-type]  # a stand-in, or what is tested
        (partial(ServerURI, insecure="0"), ["example.com", "pw"], "insecure must be bool, not str"),  # type: ignore[arg-type]  # a stand-in, or what is tested
        (partial(ServerURI, insecure=1), ["example.com", "pw"], "insecure must be bool, not int"),  # type: ignore[arg-type]  # a stand-in, or what is tested
        (partial(ServerURI, pin=bytes(32)), ["example.com", "pw"], "pin must be str or None, not bytes"),  # type: ignore[arg-type]  # a stand-in, or what is tested
        (FileSchemeStore, [b"schemes"], "directory must be str or PathLike, not bytes"),
        (FileSchemeStore, [None], "directory must be str or PathLike, not NoneType"),
        (STORE.path, [b"example.com:443"], "key must be str, not bytes"),
        (STORE.load, [b"example.com:443"], "key must be str, not bytes"),
        (STORE.load, [None], "key must be str, not NoneType"),
        (STORE.save, [b"example.com:443", DEFAULT], "key must be str, not bytes"),
        (STORE.save, ["example.com:443", DEFAULT.to_bytes()], "scheme must be PaddingScheme, not bytes"),
        (STORE.save, ["example.com:443", None], "scheme must be PaddingScheme, not NoneType"),
    ],
)
def test_functions(function: Any, arguments: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        function(*arguments)
    assert not STORE.directory.exists()
