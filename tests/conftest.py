"""Fixtures of all tests: certificates, and servers on loopback."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import hashlib
import logging
import math
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import trioanytls
from trioanytls._server.context import Handler
from trioanytls.testing import echo

#: These tests need a binary that only `nox -s interop` installs. Its argument names the directory.
collect_ignore = ["interop"]

#: The interval, in seconds, at which `StackDump` is set anew.
RENEWAL = 60

HOST = "127.0.0.1"
USERS = {"alice": "password"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--extensions`, the default of `Config.extensions`: "on", "off", or names that are separated by commas.

    Processes that tests start have their own default: all.
    """
    parser.addoption("--extensions", default="on", help="the extensions of both ends: on (all), off, or some names")
    help_text = "print the stacks of all threads if a test takes longer than this, in seconds; 0 for never"
    parser.addini("stack_dump_timeout", help_text, type="int", default=300)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use several processes if a directory is tested. Files start sooner in one process. `-n` has precedence."""
    option = config.option
    if (
        config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")
        and option.numprocesses is None
        # Processes of pytest-xdist have no terminal.
        and not (option.usepdb or option.trace or option.capture == "no")
        and any(Path(argument).is_dir() for argument in config.args)
    ):
        option.numprocesses = processes(cores())
        # Tests differ in duration by a factor of 10,000: an idle process takes tests from the others.
        option.dist = "worksteal"


def processes(cores: int) -> int:
    """Return how many processes to use. A third of the time of all tests, they wait. Each imports and collects all."""
    return min(max(2, 3 * cores // 2), 16)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pytest_configure(config: pytest.Config) -> None:
    set_extensions(config)
    if timeout := config.getini("stack_dump_timeout"):
        config.pluginmanager.register(StackDump(timeout))


class StackDump:
    """Prints the stacks of all threads if a test takes too long.

    The option `faulthandler_timeout` of pytest starts and ends a thread for each test, and waits for its end: 0.1 ms if
    the machine is idle, 10 ms if it is not. This one starts a thread once in `RENEWAL` seconds, so a test may have that
    much less time.
    """

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        # pytest captures what is written to the standard error itself.
        self._stderr = os.dup(2)
        self._set_at = -math.inf

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        if time.monotonic() - self._set_at > RENEWAL:
            self._set_at = time.monotonic()
            faulthandler.dump_traceback_later(self._timeout, file=self._stderr)

    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        os.close(self._stderr)


def set_extensions(config: pytest.Config) -> None:
    """Set the default of `Config.extensions`. A test of extensions alone sets them itself."""
    option: str = config.getoption("--extensions")
    if option == "on":
        return
    names: list[Any] = [] if option == "off" else option.split(",")
    chosen = trioanytls.Config(extensions=names).extensions
    trioanytls._config.default_extensions = chosen
    # The defaults of arguments were made on import.
    for made in gc.get_objects():
        if type(made) is trioanytls.Config:
            object.__setattr__(made, "extensions", chosen)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests of the default of `Config.extensions` if it is another one."""
    if item.get_closest_marker("default_extensions") and item.config.getoption("--extensions") != "on":
        pytest.skip("about the default of Config.extensions")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Restore the logging settings after a command has run in this process, as other tests look at log records.

    Not a fixture, which costs each of 11,800 tests more.
    """
    logger = logging.getLogger("trioanytls")
    before = logger.level, logger.handlers[:], logging.raiseExceptions
    result = yield
    if (logger.level, logger.handlers, logging.raiseExceptions) != before:
        logger.setLevel(before[0])
        logger.handlers[:], logging.raiseExceptions = before[1:]
    return result


def pytest_collection() -> None:
    """Stop the garbage collector, which takes a third of the time of the collection of all tests, and finds nothing."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Start it again. It skips the objects of the collection, which stay until the end."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep commands that tests start from writing into the directories of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def issued(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a file with a server's certificate and its key, which no test may change."""
    path = tmp_path_factory.mktemp("issued") / "certificate.pem"
    authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture
def server_context(issued: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    """Return the path of a file with a server's certificate and its key."""
    path = tmp_path / "certificate.pem"
    authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


#: `async with serving(handler, **options) as port:`
Serving = Callable[..., AbstractAsyncContextManager[int]]


@pytest.fixture
def serving(server_context: ssl.SSLContext) -> Serving:
    """Return a function that runs `trioanytls.serve` on loopback during a block, and gives the port."""

    @contextlib.asynccontextmanager
    async def start(handler: Handler = echo, **options: Any) -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            serve = functools.partial(
                trioanytls.serve,
                handler,
                0,
                **{"host": HOST, "ssl_context": server_context, "users": USERS, **options},
            )
            listeners = await nursery.start(serve)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    return start


#: `async with connecting(port, **options) as connection:`
Connecting = Callable[..., AbstractAsyncContextManager[trioanytls.Connection]]


@pytest.fixture
def connecting(client_context: ssl.SSLContext) -> Connecting:
    """Return a function that calls `trioanytls.open_connection` with a server of `serving`."""

    def connect(port: int, **options: Any) -> AbstractAsyncContextManager[trioanytls.Connection]:
        return trioanytls.open_connection(
            HOST, port, **{"password": USERS["alice"], "ssl_context": client_context, **options}
        )

    return connect


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return a dict for passwords whose hashes are made up."""
    made_up: dict[str, bytes] = {}

    def hash_of(password: str) -> bytes:
        return made_up.get(password) or hashlib.sha256(password.encode()).digest()

    for module in ("credentials", "anytls1.client", "legacy.client"):
        monkeypatch.setattr(f"trioanytls._protocol.{module}.hash_password", hash_of)
    return made_up
