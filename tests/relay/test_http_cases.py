"""The table of exchanges of `http_cases`, through this proxy."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
import trio
from attrs import evolve

import trioanytls
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.bypass import Bypass, BypassRule
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.http_proxy import HTTPProxy
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.upstream import Upstream
from trioanytls.testing import memory_connection_pair

from ..helpers.http_cases import CASES, END, RESET, Case, Step, Steps, Until, listening, run_case, run_steps

RELAY = RelayHandler(AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")]), connect_timeout=5)
ALICE = ProxyUsers({"alice": "secret"})


class NoNames(trio.abc.HostnameResolver):
    """No name has an address, so that no query leaves the machine."""

    async def getaddrinfo(self, *arguments: object, **options: Any) -> list[object]:  # type: ignore[override]  # as trio's with fewer arguments
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def getnameinfo(self, *arguments: object) -> tuple[str, str]:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def proxying(*, bypass: Bypass | None = None, **settings: Any) -> AsyncIterator[int]:
    """Serve the proxy with a relay in memory, and yield its port. An exception of the proxy fails the test."""
    trio.socket.set_custom_hostname_resolver(NoNames())
    config = trioanytls.Config(acknowledge="manual")
    async with (
        memory_connection_pair(RELAY, server_config=config) as (connection, _),
        listening(HTTPProxy(Upstream(connection, bypass=bypass or Bypass()), **settings)) as port,  # type: ignore[arg-type]  # a stand-in, or what is tested
    ):
        yield port


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_case(case: Case) -> None:
    async with proxying(users=ALICE if case.users else None) as port:
        await run_case(case, port)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_case_without_the_relay(case: Case) -> None:
    """Connect directly to the origin, as `--bypass` does."""
    bypass = Bypass([BypassRule.parse("127.0.0.0/8")])
    async with proxying(users=ALICE if case.users else None, bypass=bypass) as port:
        await run_case(case, port)


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


# Messages whose order varies, since either task may see the end of the destination first.
RACES = [
    "answer-at-once-and-100-expected",
    "answer-before-the-request",
    "answer-before-the-request-and-reset",
    "answer-during-an-upload",
    "continue-refused",
]


@pytest.mark.parametrize("name", RACES)
async def test_races_end_the_same_each_time(name: str) -> None:
    [case] = [case for case in CASES if case.name == name]
    async with proxying() as port, trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(run_case, case, port)


# Exchanges that are changed at random, cut at any point, and ended in any way


def odd(case: Case, seed: int) -> Case:
    """Change both sides of a case."""
    random = Random(seed)
    app = (case.app,) if isinstance(case.app, bytes) else case.app
    origin = (Until(b"\r\n\r\n"), case.origin) if isinstance(case.origin, bytes) else case.origin
    return evolve(case, app=change(app, random), origin=change(origin, random))


def change(steps: Steps, random: Random) -> Steps:
    changed: list[bytes | Until | Step] = []
    for step in steps:
        if not isinstance(step, bytes):
            changed.append(step)
            continue
        data = change_bytes(step, random)
        size = random.choice([1, 7, 100]) if len(data) < 1000 and random.random() < 0.5 else len(data) or 1
        changed += [data[start : start + size] for start in range(0, len(data), size)]
    if random.random() < 0.2:
        del changed[random.randrange(len(changed) + 1) :]
    return [*changed, random.choice([END, RESET])]


def change_bytes(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([0, 1, 1, 2, 4])):
        at = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0:
                changed[at : at + 1] = random.randbytes(1)
            case 1:
                del changed[at : at + random.randrange(20)]
            case 2:
                changed[at:at] = bytes(random.choices(b"\r\n \t:,;\0\x80=0a", k=3))
            case 3:
                del changed[at:]
            case _:
                changed[at:at] = changed[random.randrange(len(changed) + 1) :][: random.randrange(60)]
    return bytes(changed)


async def test_odd_exchanges_end_and_disturb_no_other_connection() -> None:
    """Send them through one proxy together with valid exchanges. An exception of the proxy would fail the test."""
    # A tunnel ends when both ends close, which wait for each other here.
    cases = [case for case in CASES if not case.users and not case.name.startswith(("connect", "websocket"))]
    good = [case for case in CASES if case.name in ("content-large", "answer-large", "requests-at-once")]
    limiter = trio.CapacityLimiter(20)

    async def run(case: Case, port: int) -> None:
        async with limiter:
            await run_case(case, port)

    async def run_odd(number: int, port: int) -> None:
        async with limiter:
            await run_steps(odd(cases[number % len(cases)], number), port)

    # Long enough for the valid exchanges on a busy machine.
    timeouts: dict[str, Any] = dict.fromkeys(
        ("head_timeout", "idle_timeout", "silence_timeout", "half_closed_timeout"), 3.0
    )
    async with proxying(**timeouts, linger_time=0.5) as port, trio.open_nursery() as nursery:
        for number in range(400):
            nursery.start_soon(run_odd, number, port)
            if not number % 20:
                nursery.start_soon(run, good[number // 20 % len(good)], port)
