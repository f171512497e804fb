"""Exchanges of a client with a server that were recorded, and the means to record and to replay them.

A recording is a JSON file: the settings of both ends, and steps. Each step has actions of the applications (`do`), the
writes of both ends that follow from them (`rounds`), and the results that the applications saw (`seen`). A transport in
memory takes the place of TLS. It passes on the writes of the ends only when all tasks are blocked, to both ends at
once, and the clock moves only by an action. So the same actions always lead to the same rounds. In a replay, one end
runs, and the recording takes the place of the other one.

The lines of `do`:

    advance SECONDS                 move the clock
    END raw BYTES                   pass on bytes as if END had written them, or "end", the end of the transport
    END send ID DATA                `Stream.send_all`, with DATA such as `b*300`; without DATA, of no bytes
    END receive ID                  `Stream.receive_some`
    END read ID                     `Stream.receive_some` up to the end of the stream
    END close ID                    `Stream.aclose`, and then a server's handler returns
    END ping, END aclose            the methods of `Connection`
    client open, client wait ID     `Connection.open_stream`, `Stream.wait_acknowledged`
    server acknowledge ID           `Stream.acknowledge`
    server refuse ID                `Stream.refuse`
    server fail ID                  the handler raises an exception
    server drain, server cancel     the server is drained, or cancelled from outside

END is "client" or "server". The actions of one end in one step are carried out one after the other. An action that
waits does so while the following steps are taken. Bytes are in hexadecimal notation, with text in single quotes, and
`00*30` for 30 equal bytes.

The module uses only names that the commit 40ee90b has, too. The files were recorded with the code of that commit:

    git worktree add --detach /tmp/checkout 40ee90b
    PYTHONPATH=/tmp/checkout python tests/helpers/recorded_exchange.py tests/integration/recordings/*.json

This replaces `rounds` and `seen` of each file. For a new recording, write a file with settings and `do` alone.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import trio
import trio.testing
from attrs import define, field

import trioanytls

SIDES = ("client", "server")
#: The mark of a transport's end among the writes.
END = "end"
PASSWORD = "password"

# Bytes as text


#: Twelve or more equal bytes, or six or more characters of text.
_NOTABLE = re.compile(rb"(.)\1{11,}|(?:(?!(.)\2{11})[\n -&(-\[\]-~]){6,}", re.DOTALL)
_TOKEN = re.compile(r"'([^']*)'|([0-9a-f]+)(?:\*(\d+))?|\s+")


def to_text(data: bytes) -> str:
    """Return the notation of bytes."""
    tokens = []
    at = 0
    for notable in _NOTABLE.finditer(data):
        tokens.append(data[at : notable.start()].hex())
        if notable[1]:
            tokens.append(f"{notable[1].hex()}*{len(notable[0])}")
        else:
            tokens.append("'" + notable[0].decode().replace("\n", "\\n") + "'")
        at = notable.end()
    tokens.append(data[at:].hex())
    return " ".join(filter(None, tokens))


def from_text(text: str) -> bytes:
    """Return the bytes that the notation stands for."""
    data = b""
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        assert token is not None, text[at:]
        words, digits, count = token.groups()
        if words is not None:
            data += words.replace("\\n", "\n").encode()
        elif digits:
            data += bytes.fromhex(digits) * int(count or 1)
        at = token.end()
    return data


# Recordings


@define
class Round:
    """The writes of each end between two times at which all tasks are blocked."""

    client: list[str] = field(factory=list)
    server: list[str] = field(factory=list)

    def of(self, side: str) -> list[str]:
        """Return the writes of one end."""
        return self.client if side == "client" else self.server


@define
class Step:
    """Actions, and their consequences."""

    do: list[str]
    rounds: list[Round] = field(factory=list)
    seen: list[str] = field(factory=list)

    def seen_by(self, side: str) -> list[str]:
        """Return the results that the application of one end saw, in alphabetical order."""
        return sorted(line for line in self.seen if line.startswith(side))


@define
class Exchange:
    """A recording. `client` and `server` have the settings of the ends, None for an end that sends raw bytes only."""

    about: str
    client: dict[str, Any] | None
    server: dict[str, Any] | None
    steps: list[Step]

    @classmethod
    def load(cls, path: Path) -> Exchange:
        """Read a file."""
        content = json.loads(path.read_text())
        steps = [
            Step(step["do"], [Round(**one) for one in step.get("rounds", ())], step.get("seen", []))
            for step in content["steps"]
        ]
        return cls(content["about"], content["client"], content["server"], steps)

    def save(self, path: Path) -> None:
        """Write a file."""
        steps = [
            {
                "do": step.do,
                "rounds": [{side: one.of(side) for side in SIDES if one.of(side)} for one in step.rounds],
                "seen": step.seen,
            }
            for step in self.steps
        ]
        content = {"about": self.about, "client": self.client, "server": self.server, "steps": steps}
        path.write_text(json.dumps(content, indent=1) + "\n")


def run(exchange: Exchange, sides: Iterable[str] = SIDES, **config: object) -> list[Step]:
    """Run these ends of an exchange, and return what they did. The recording stands for the others.

    `config` has settings of the ends that run, in addition to those of the recording.
    """
    clock = trio.testing.MockClock()
    running = [side for side in sides if getattr(exchange, side) is not None]
    scheduling: Any = trio._core._run
    before = scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r
    # Tasks run in the order in which they were started. Otherwise, chance decides whether two frames share a write.
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r = True, _NeverReversed()
    try:
        return trio.run(_run, exchange, clock, running, config, clock=clock)
    finally:
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING, scheduling._r = before


class _NeverReversed(random.Random):
    def random(self) -> float:
        return 0.75


async def _run(
    exchange: Exchange, clock: trio.testing.MockClock, sides: list[str], config: dict[str, object]
) -> list[Step]:
    async with trio.open_nursery() as nursery:
        ends = {side: _ENDS[side](getattr(exchange, side), config, nursery) for side in sides}
        await trio.testing.wait_all_tasks_blocked()
        done = [await _take_step(step, ends, clock, nursery) for step in exchange.steps]
        # The ends close in bounded time.
        clock.autojump_threshold = 0
        for end in ends.values():
            end.transport.arrive([END])
        with trio.move_on_after(1000):
            for end in ends.values():
                await end.finished.wait()
        nursery.cancel_scope.cancel()
    return done


async def _take_step(step: Step, ends: dict[str, _End], clock: trio.testing.MockClock, nursery: trio.Nursery) -> Step:
    actions: dict[str, list[list[str]]] = {side: [] for side in SIDES}
    raw: dict[str, list[str]] = {side: [] for side in SIDES}
    for line in step.do:
        who, what, *arguments = line.split(maxsplit=2)
        if who == "advance":
            clock.jump(float(what))
        elif what == "raw":
            raw[who] += arguments
        else:
            actions[who].append([what, *" ".join(arguments).split()])
    for side, end in ends.items():
        if actions[side]:
            nursery.start_soon(end.act, actions[side])
    done = Step(step.do)
    recorded = step.rounds.copy()
    while True:
        await trio.testing.wait_all_tasks_blocked()
        expected = recorded.pop(0) if recorded else Round()
        made = Round()
        for side in SIDES:
            if side in ends:
                made.of(side).extend([*ends[side].transport.take(), *raw.pop(side, ())])
            else:
                made.of(side).extend(expected.of(side) if step.rounds else raw.pop(side, ()))
        if not recorded and not made.client and not made.server:
            break
        done.rounds.append(made)
        for side, other in (SIDES, SIDES[::-1]):
            if other in ends:
                ends[other].transport.arrive(made.of(side))
    for side in SIDES:
        if side in ends:
            done.seen += sorted(ends[side].seen)
            ends[side].seen.clear()
    return done


class Transport(trio.abc.Stream):
    """One end's transport. What is written to it stays in it until `take`."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._arrived = bytearray()
        self._ended = False
        self._closed = False
        self._changed = trio.Event()

    def take(self) -> list[str]:
        """Return the writes since the last call."""
        written, self._written = self._written, []
        return written

    def arrive(self, writes: Iterable[str]) -> None:
        """Let writes of the other end arrive."""
        for write in writes:
            if write == END:
                self._ended = True
            else:
                self._arrived += from_text(write)
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        self._written.append(to_text(bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._closed:
            if self._arrived or self._ended:
                data = bytes(self._arrived[:max_bytes])
                del self._arrived[: len(data)]
                return data
            await self._changed.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._written.append(END)
            self._change()
        await trio.lowlevel.checkpoint()


# The ends, and their applications


def _as_seen(result: object) -> str:
    if isinstance(result, BaseException):
        code = result.code if isinstance(result, trioanytls.ConnectionClosed) else None
        return type(result).__name__ if code is None else f"{type(result).__name__} {int(code)}"
    return to_text(result) if isinstance(result, bytes) else str(result)


class _End:
    """An end that runs, and its application."""

    side: str

    def __init__(self, settings: dict[str, Any], config: dict[str, object], nursery: trio.Nursery) -> None:
        self.transport = Transport()
        self.seen: list[str] = []
        self.finished = trio.Event()
        self.streams: dict[int, trioanytls.Stream] = {}
        self.connection: trioanytls.Connection | None = None
        scheme = settings.get("scheme")
        self.scheme = trioanytls.PaddingScheme.parse(scheme.encode()) if scheme else None
        self.settings = settings
        self.config = trioanytls.Config(**settings.get("config", {}) | config)
        nursery.start_soon(self._run_and_finish)

    async def run(self) -> None:
        """Run the end."""
        raise NotImplementedError

    async def _run_and_finish(self) -> None:
        try:
            await self.run()
        finally:
            self.see("end", "")
            self.finished.set()

    def see(self, action: str, result: object) -> None:
        """Note a result."""
        self.seen.append(f"{self.side} {action}: {_as_seen(result)}".rstrip(": "))

    async def act(self, actions: list[list[str]]) -> None:
        """Carry out actions, one after the other."""
        for action, *arguments in actions:
            method: Callable[..., Awaitable[object]] = getattr(self, "_" + action)
            try:
                stream = [self.streams[int(arguments[0])]] if arguments else []
                result = await method(*stream, *arguments[1:])
            except Exception as error:  # noqa: BLE001 - a result
                result = error
            self.see(" ".join([action, *arguments[:1]]), result)

    async def _send(self, stream: trioanytls.Stream, data: str = "") -> str:
        character, _, count = data.partition("*")
        await stream.send_all(character.encode() * int(count or 1))
        return "done"

    async def _receive(self, stream: trioanytls.Stream) -> bytes:
        return await stream.receive_some()

    async def _read(self, stream: trioanytls.Stream) -> bytes:
        return b"".join([data async for data in stream])

    async def _close(self, stream: trioanytls.Stream) -> str:
        await stream.aclose()
        return "done"

    async def _ping(self) -> float:
        return await self._the_connection.ping()

    async def _aclose(self) -> str:
        await self._the_connection.aclose()
        return "done"

    @property
    def _the_connection(self) -> trioanytls.Connection:
        assert self.connection is not None
        return self.connection


class _Client(_End):
    side = "client"

    async def run(self) -> None:
        """Run the connection until it has closed."""
        password = self.settings.get("password", PASSWORD)
        async with trioanytls.wrap_client(
            self.transport, password=password, padding_scheme=self.scheme, config=self.config
        ) as self.connection:
            await self.connection.wait_closed()
        assert self.connection.close_reason is not None
        self.see("closed", self.connection.close_reason)

    async def _open(self) -> int:
        stream = await self._the_connection.open_stream()
        self.streams[stream.stream_id] = stream
        return stream.stream_id

    async def _wait(self, stream: trioanytls.Stream) -> str:
        await stream.wait_acknowledged()
        return "done"


class _Server(_End):
    side = "server"

    def __init__(self, settings: dict[str, Any], config: dict[str, object], nursery: trio.Nursery) -> None:
        super().__init__(settings, config, nursery)
        self._scope = trio.CancelScope()
        # By stream: set when its handler is to return, and whether it is to fail then.
        self._returning: dict[trioanytls.Stream, trio.Event] = {}
        self._failing: set[trioanytls.Stream] = set()

    async def run(self) -> None:
        """Serve the connection until it has ended."""
        fallback = self._fallback if self.settings.get("fallback") else None
        with self._scope:
            await trioanytls.serve_connection(
                self.transport,
                self._handle,
                users={"alice": PASSWORD},
                padding_scheme=self.scheme,
                fallback=fallback,
                config=self.config,
            )

    async def _handle(self, stream: trioanytls.Stream) -> None:
        self.connection = stream.connection
        self.streams[stream.stream_id] = stream
        self._returning[stream] = trio.Event()
        self.see(f"stream {stream.stream_id}", "opened")
        await self._returning[stream].wait()
        if stream in self._failing:
            raise ValueError("the handler fails")

    async def _fallback(self, stream: trio.abc.Stream) -> None:
        self.see("fallback", bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def _close(self, stream: trioanytls.Stream) -> str:
        await stream.aclose()
        self._returning[stream].set()
        return "done"

    async def _fail(self, stream: trioanytls.Stream) -> str:
        self._failing.add(stream)
        self._returning[stream].set()
        return "done"

    async def _acknowledge(self, stream: trioanytls.Stream) -> str:
        await stream.acknowledge()
        return "done"

    async def _refuse(self, stream: trioanytls.Stream) -> str:
        await stream.refuse()
        return "done"

    async def _drain(self) -> str:
        # Public only for a whole server, by `ServerControl`. 40ee90b has it under the second name.
        connection: Any = self._the_connection
        (connection.drain if hasattr(connection, "drain") else connection._drain)()
        return "done"

    async def _cancel(self) -> str:
        self._scope.cancel()
        return "done"


_ENDS: dict[str, type[_End]] = {"client": _Client, "server": _Server}


def main(paths: list[str]) -> None:
    """Record the exchanges of these files anew."""
    print("with", trioanytls.__file__)
    for path in map(Path, paths):
        exchange = Exchange.load(path)
        for step in exchange.steps:
            step.rounds = []
        runs = [run(exchange) for _ in range(5)]
        print(path.name, "" if all(one == runs[0] for one in runs) else "is not the same each time")
        exchange.steps = runs[0]
        exchange.save(path)


if __name__ == "__main__":
    main(sys.argv[1:])
