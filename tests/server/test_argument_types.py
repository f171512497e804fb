"""Arguments of the server's public functions: a wrong type is a `TypeError` that names the argument."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import Config, PaddingScheme, ServerControl, metrics, open_listeners, relay_to, serve, serve_connection
from trioanytls.destination import Destination
from trioanytls.testing import echo

HANDLER = [
    ("handler", None, "handler must be callable, not NoneType"),
    ("handler", "echo", "handler must be callable, not str"),
    ("users", ["alice"], "users must be Mapping, not list"),
    ("users", None, "users must be Mapping, not NoneType"),
    ("users", {"alice": b"hunter2"}, "each password of users must be str, not bytes"),
    ("users", {1: "hunter2"}, "each name of users must be str, not int"),
    ("padding_scheme", PaddingScheme.DEFAULT.to_bytes(), "padding_scheme must be PaddingScheme, not bytes"),
    ("padding_scheme", b"", "padding_scheme must be PaddingScheme, not bytes"),
    ("fallback", "localhost:80", "fallback must be callable or None, not str"),
    ("protocols", "legacy", "protocols must be a collection of wire formats, not str"),
    ("protocols", None, "protocols must be a collection of wire formats, not NoneType"),
    ("config", {}, "config must be Config, not dict"),
    ("config", None, "config must be Config, not NoneType"),
    ("config", Config, "config must be Config, not type"),
]
SERVE = [
    ("port", "8443", "port must be int, not str"),
    ("port", True, "port must be int, not bool"),
    ("port", None, "port must be int, not NoneType"),
    ("host", 127, "host must be str or bytes or None, not int"),
    ("ssl_context", None, "ssl_context must be SSLContext, not NoneType"),
    ("ssl_context", "cert.pem", "ssl_context must be SSLContext, not str"),
    ("control", ServerControl, "control must be ServerControl or None, not type"),
    ("handler_nursery", "nursery", "handler_nursery must be Nursery or None, not str"),
    ("trusted_proxies", "10.0.0.0/8", "trusted_proxies must be a sequence of addresses and networks, not the str '10"),
    ("trusted_proxies", [10], "each of trusted_proxies must be str, not int"),
]


@pytest.mark.parametrize(("name", "value", "error"), [*HANDLER, *SERVE])
async def test_serve(name: str, value: object, error: str) -> None:
    arguments: dict[str, Any] = {
        "handler": echo,
        "port": 0,
        "host": "127.0.0.1",
        "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        "users": {"alice": "hunter2"},
    }
    arguments[name] = value
    with pytest.raises(TypeError, match=f"^{re.escape(error)}") as caught:
        await serve(**arguments)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("name", "value", "error"), HANDLER)
async def test_serve_connection_closes_the_transport(name: str, value: object, error: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    arguments: dict[str, Any] = {"handler": echo, "users": {"alice": "hunter2"}}
    arguments[name] = value
    with pytest.raises(TypeError, match=f"^{re.escape(error)}$"):
        await serve_connection(near, **arguments)
    assert await far.receive_some() == b""


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"protocols": []}, "protocols must not be empty"),
        ({"protocols": ["anytls2"]}, "each of protocols must be one of 'anytls1', 'legacy', not 'anytls2'"),
        ({"protocols": [None]}, "each of protocols must be one of 'anytls1', 'legacy', not None"),
        (
            {"protocols": {"legacy"}, "padding_scheme": PaddingScheme.parse(b"stop=1\n0=1153-1153")},
            "the padding scheme's line 0 asks for up to 1153 bytes: legacy clients can have at most 1152",
        ),
    ],
)
async def test_wire_formats_and_what_suits_them(options: dict[str, Any], error: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        await serve_connection(near, echo, users={"alice": "hunter2"}, **options)
    assert await far.receive_some() == b""
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        await serve(echo, 0, host="127.0.0.1", ssl_context=context, users={"alice": "hunter2"}, **options)


@pytest.mark.parametrize("transport", [None, 3, trio.MemorySendChannel])
async def test_a_transport_is_a_stream(transport: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^transport must be an object with send_all and receive_some and aclose, not "
    ):
        await serve_connection(transport, echo, users={"alice": "hunter2"})


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_port_is_in_its_range(port: int) -> None:
    with pytest.raises(ValueError, match=f"^invalid port {port}: must be between 0 and 65535$"):
        await open_listeners(port, "127.0.0.1")


CALLS: list[tuple[Callable[[], object], str]] = [
    (lambda: relay_to(b"localhost", 80), "host must be str, not bytes"),  # type: ignore[arg-type]  # what is tested
    (lambda: relay_to("localhost", "80"), "port must be int, not str"),  # type: ignore[arg-type]  # what is tested
    (lambda: relay_to("x", 80, idle_timeout="3"), "idle_timeout must be int or float, not str"),  # type: ignore[arg-type]  # what is tested
    (lambda: PaddingScheme.parse("stop=1"), "a padding scheme must be bytes, not str"),  # type: ignore[arg-type]  # what is tested
    (lambda: Destination(3, 80), "host must be str, not int"),  # type: ignore[arg-type]  # what is tested
    (lambda: Destination("localhost", "80"), "port must be int, not str"),  # type: ignore[arg-type]  # what is tested
    (lambda: Destination("localhost", True), "port must be int, not bool"),
]


@pytest.mark.parametrize(("call", "error"), CALLS, ids=[error for _, error in CALLS])
def test_other_functions(call: Callable[[], object], error: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(error)}$"):
        call()


async def test_serve_metrics() -> None:
    with pytest.raises(TypeError, match=r"^source must be an object with snapshot, not int$"):
        await metrics.serve_metrics(3, 0)  # type: ignore[arg-type]  # what is tested


async def test_server_control(server_context: ssl.SSLContext) -> None:
    control = ServerControl()
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            users = {"alice": "hunter2"}
            await serve(
                echo,
                0,
                host="127.0.0.1",
                ssl_context=server_context,
                users=users,
                control=control,
                task_status=task_status,
            )

        await nursery.start(run)
        with pytest.raises(TypeError, match=r"^users must be Mapping, not list$"):
            control.replace_users(["alice"])  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match=r"^each password of users must be str, not bytes$"):
            control.replace_users({"alice": b"hunter2"})  # type: ignore[dict-item]  # what is tested
        with pytest.raises(TypeError, match=r"^timeout must be int or float or None, not str$"):
            await control.drain("3")  # type: ignore[arg-type]  # what is tested
        assert control.running
        await control.drain(0)
    assert isinstance(control.snapshot(), trioanytls.ServerStats)
