"""Three servers of one HAProxy, each a host that can be restarted: on loopback, or in network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence

import trio
from attrs import define, field, frozen

import trioanytls

from ..conftest import HOST, USERS
from ..helpers.cli_process import Program, program
from ..helpers.haproxy import Balancer, haproxy
from ._ends import Files

_NAMES = ("one", "two", "three")


@frozen
class Network:
    """The network of the servers.

    Attributes:
      gateway: the address on which the servers reach the test.
      addresses: the address of each server.
      prefixes: the command that runs a command on each host.
      links: the network interface of each host, as far as it has one of its own.
    """

    gateway: str
    addresses: Sequence[str]
    prefixes: Sequence[Sequence[str]]
    links: Sequence[str | None]

    @property
    def allowed(self) -> str:
        """The destinations that the servers have to allow."""
        return f"{self.gateway}/32"


LOOPBACK = Network(HOST, [HOST] * 3, [()] * 3, [None] * 3)


@contextlib.contextmanager
def namespaces() -> Iterator[Network]:
    """Make three hosts: network namespaces, which a bridge connects to this one.

    Raises:
      OSError: there is no `ip`.
      subprocess.CalledProcessError: the system does not allow it.
    """
    # Another run of the tests at the same time has other names and addresses.
    number = os.getpid()
    bridge, names = f"any{number}", [f"any{number}-{index}" for index in range(3)]
    subnet = f"198.18.{number % 256}"
    with contextlib.ExitStack() as stack:
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "delete", bridge)
        _ip("address", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for index, name in enumerate(names):
            _ip("netns", "add", name)
            # Deletes the pair of interfaces as well.
            stack.callback(_ip, "netns", "delete", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", bridge, "up")
            _ip("-n", name, "address", "add", f"{subnet}.{index + 11}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
        prefixes = [("ip", "netns", "exec", name) for name in names]
        yield Network(f"{subnet}.1", [f"{subnet}.{index + 11}" for index in range(3)], prefixes, names)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@define(eq=False)
class Server:
    """`trioanytls server` on one of the hosts.

    Attributes:
      name: its name in HAProxy's configuration.
      port: its port, the same after a restart.
      starts: how often it was started.
    """

    name: str
    _address: str
    _prefix: Sequence[str]
    _link: str | None
    _options: Sequence[object]
    _nursery: trio.Nursery
    port: int = 0
    starts: int = 0
    _program: Program | None = None
    _stopped: trio.Event = field(factory=trio.Event)

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        await self._nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._stopped = stopped = trio.Event()
        options = ["--listen", f"{self._address}:{self.port}", *self._options]
        environment = {"TRIOANYTLS_PASSWORD": USERS["alice"]}
        async with program("server", *options, environment=environment, prefix=self._prefix) as self._program:
            self.port = trioanytls.parse_uri(await self._program.out.find("anytls://")).port
            self.starts += 1
            task_status.started()
            await stopped.wait()

    async def stop(self) -> float:
        """Let it drain, and wait until it has exited. Return how long that took, in seconds."""
        assert self._program is not None
        begun = trio.current_time()
        self._program.signal(signal.SIGTERM)
        assert await self._program.wait() == 0
        self._stopped.set()
        return trio.current_time() - begun

    def disconnect(self) -> None:
        """Take its host off the network, if it has one of its own."""
        if self._link is not None:
            _ip("link", "set", self._link, "down")

    def connect(self) -> None:
        """Undo `disconnect`."""
        if self._link is not None:
            _ip("link", "set", self._link, "up")


@define(eq=False)
class Fleet:
    """Three servers and their HAProxy.

    Attributes:
      port: the port of HAProxy.
      drained: how long each server has drained, in seconds.
    """

    _balancer: Balancer
    servers: Sequence[Server]
    drained: list[float] = field(factory=list)

    @property
    def port(self) -> int:
        return self._balancer.port

    async def replace(self, server: Server, announced: bool) -> None:
        """Restart a server.

        Args:
          announced: whether HAProxy is told first, as operators do. Otherwise its health checks find out.
        """
        if announced:
            await self._balancer.set_state(server.name, "drain")
        self.drained.append(await server.stop())
        server.disconnect()
        server.connect()
        await server.start()
        if announced:
            await self._balancer.set_state(server.name, "ready")
        await self._balancer.wait_until_up(server.name)


@contextlib.asynccontextmanager
async def fleet(files: Files, network: Network, *options: object) -> AsyncIterator[Fleet]:
    """Run the servers, with these options, and HAProxy."""
    usual = ["--workers", 2, "--cert", files.certificate, "--allow", network.allowed, "--print-uri", "--quiet"]
    async with trio.open_nursery() as nursery:
        hosts = zip(_NAMES, network.addresses, network.prefixes, network.links, strict=True)
        servers = [Server(*host, [*usual, *options], nursery) for host in hosts]
        async with trio.open_nursery() as starting:
            for server in servers:
                starting.start_soon(server.start)
        lines = [
            f"server {server.name} {server._address}:{server.port} check inter 500ms fall 2 rise 1"
            for server in servers
        ]
        async with haproxy(files.directory, "balance leastconn", *lines) as balancer:
            yield Fleet(balancer, servers)
        for server in servers:
            await server.stop()
