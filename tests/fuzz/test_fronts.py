"""A few exchanges through all front ends in every test run, and a check that the program finds faults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from . import fuzz_fronts
from ._exchanges import FRONTS, make_exchange
from .fuzz_fronts import Found, Fuzz

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and sockets as POSIX has them")


@posix
async def test_a_few_exchanges_do_no_harm() -> None:
    fuzz = Fuzz(seed=12, waits=False)
    await fuzz.run(range(120))
    assert sum(fuzz.ends.values()) == 120
    assert {name.partition(":")[0] for name in fuzz.ends} == set(FRONTS)
    # The other applications have transferred data in all six ways.
    assert len(fuzz.intact) == 6


def test_a_seed_and_a_number_are_an_exchange() -> None:
    made = [make_exchange(1, number, "127.0.0.1", 80, waits=True) for number in range(200)]
    assert made == [make_exchange(1, number, "127.0.0.1", 80, waits=True) for number in range(200)]
    assert made != [make_exchange(2, number, "127.0.0.1", 80, waits=True) for number in range(200)]
    assert {exchange.front for exchange in made} == set(FRONTS)
    assert {exchange.end for exchange in made} == {"close", "read-close", "reset", "eof", "wait"}
    assert {exchange.site.end for exchange in made} == {"close", "reset", "eof", "hang"}
    # No application waits for a site that waits for it.
    assert not [exchange for exchange in made if exchange.end == "wait" and exchange.site.end == "hang"]
    data = b"\n".join(b"".join(exchange.pieces) for exchange in made)
    for valid in (
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n",
        b"GET http://127.0.0.1:80",
        b"\x05\x01\x00",
        b"\x04\x01\x00\x50",
    ):
        assert valid in data


def fake(*lines: str) -> Any:
    return SimpleNamespace(err=SimpleNamespace(lines=list(lines)), out=SimpleNamespace(lines=[]), running=True, pid=0)


def test_a_mistake_in_a_log_is_found() -> None:
    fuzz = Fuzz(seed=1, waits=False)
    fuzz.client, fuzz.server = fake("2026-01-01 00:00:00 INFO    all is well"), fake()
    fuzz.judge([1.0] * 3)
    fuzz.server = fake("2026-01-01 00:00:00 ERROR   it failed by an error in trioanytls: ValueError()")
    with pytest.raises(Found, match="1 mistakes"):
        fuzz.judge([1.0] * 3)


def test_memory_that_grows_is_found() -> None:
    fuzz = Fuzz(seed=1, waits=False)
    fuzz.client, fuzz.server = fake(), fake()
    # A file that is open at the end is open after half of the run as well.
    fuzz.judge([40.0, 50, 60, 70, 70, 70, 70, 71])
    with pytest.raises(Found, match="grew by"):
        fuzz.judge([40.0, 50, 60, 70, 80, 90, 100, 110])


@pytest.mark.parametrize("change", [lambda data: b"x" + data[1:], lambda data: data[:-1]])
async def test_data_that_is_not_intact_is_found(change: Callable[[bytes | bytearray], bytes]) -> None:
    fuzz = Fuzz(seed=1, waits=False)
    near: Any
    near, far = trio.testing.memory_stream_pair()

    async def answer() -> None:
        data = await far.receive_some()
        await far.send_all(change(data))
        await far.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(Found, match="another application"):
            await fuzz.compare(near, b"hello", "test")
    assert not fuzz.intact


async def test_an_exchange_that_does_not_end_is_found(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def never(_fuzz: Fuzz, _exchange: object) -> str:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(fuzz_fronts.Fuzz, "_exchange", never)
    fuzz = Fuzz(seed=1, waits=False)
    fuzz.client = fuzz.server = fake()
    slots = trio.CapacityLimiter(1)
    await slots.acquire_on_behalf_of(0)
    with pytest.raises(Found, match=r"exchange 0 \(socks, \S+\) did not end within"):
        await fuzz.run_one(0, slots)
    assert not slots.borrowed_tokens
