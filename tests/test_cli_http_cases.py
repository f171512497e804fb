"""The table of exchanges of `_http_cases`, through this proxy and through tinyproxy."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator

import pytest

import trioanytls
from trioanytls.cli._gateway import Gateway
from trioanytls.cli._http_proxy import HTTPProxy
from trioanytls.cli._policy import AddressPolicy
from trioanytls.cli._proxy_users import ProxyUsers
from trioanytls.cli._relay import Relay
from trioanytls.testing import memory_connection_pair

from ._http_cases import CASES, Case, listening, run_case

RELAY = Relay(AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")]), connect_timeout=5)
ALICE = ProxyUsers({"alice": "secret"})


@contextlib.asynccontextmanager
async def proxying(**settings: object) -> AsyncIterator[int]:
    """The proxy, with a relay behind it in memory; gives its port. What it raises ends the test."""
    config = trioanytls.Config(acknowledge="manual")
    async with (
        memory_connection_pair(RELAY, server_config=config) as (connection, _),
        listening(HTTPProxy(Gateway(connection), **settings)) as port,
    ):
        yield port


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_case(case: Case) -> None:
    async with proxying(users=ALICE if case.users else None) as port:
        await run_case(case, port)


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
