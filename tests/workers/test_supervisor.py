"""What the parent of `serve_workers` and its workers do, with workers that are tasks of the test, and Trio's clock."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import math
import pickle
import re
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio
import trio.testing
import trustme
from attrs import define, field
from cryptography.hazmat.primitives import serialization

import trioanytls
from trioanytls import ServerControl, ServerStats, WorkersControl
from trioanytls._server import control as _control
from trioanytls._workers import child, ipc, supervisor

from ..conftest import HOST

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


@define(eq=False)
class Task:
    """Stands in for `WorkerProcess`: the worker is a task, and killed by cancelling it."""

    pid: int
    end: str = ""
    succeeded: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)

    async def run(self, end: socket.socket, number: int, main: Callable[[socket.socket, int], object]) -> None:
        with self.scope:
            code = await main(end, number)
            self.end, self.succeeded = f"with exit code {code}", code == 0
        if self.scope.cancelled_caught:
            self.end = "by signal SIGKILL"
        self.ended.set()

    async def wait(self) -> None:
        await self.ended.wait()

    def kill(self) -> None:
        self.scope.cancel()

    def close(self) -> None:
        assert self.ended.is_set()


@define
class Tasks:
    """What `WorkerProcess` is replaced by.

    Attributes:
      started: all that were started, and when, from the beginning on.
      main: what each of them does.
      failure: what is raised instead.
    """

    nursery: trio.Nursery
    main: Callable[[socket.socket, int], object] = field(
        default=lambda end, number: child.WorkerMain(end, number).run()
    )
    failure: Exception | None = None
    started: list[Task] = field(factory=list)
    times: list[float] = field(factory=list)
    _begin: float = field(factory=trio.current_time)

    def start(self, end: socket.socket, number: int) -> Task:
        self.times.append(trio.current_time() - self._begin)
        if self.failure is not None:
            end.close()
            raise self.failure
        task = Task(len(self.started) + 1)
        self.started.append(task)
        self.nursery.start_soon(task.run, end, number, self.main)
        return task


@pytest.fixture
async def tasks(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    made = Tasks(nursery)
    monkeypatch.setattr(supervisor, "WorkerProcess", made)

    async def no_signals(self: object, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    # One task of a process can wait for a signal.
    monkeypatch.setattr(child.WorkerMain, "_heed_sigterm", no_signals)
    return made


class Server:
    """Stands in for the server that has the control in a worker: it has stopped as soon as it is told to.

    What it is told goes to `told`, which is the same list for all.
    """

    drain_timeout = math.inf
    told: ClassVar[list[tuple[object, ...]]] = []
    error: Exception | None = None
    stats = ServerStats(connections=1, authentications=10)

    def __init__(self) -> None:
        self.stopped = trio.Event()
        self.stop_at = math.inf

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - as the real one
        self.told.append(("drain", timeout))
        self.stopped.set()

    def replace_users(self, users: dict[str, str]) -> None:
        self.told.append(("users", users))

    def replace_certificate(self, *certificate: object) -> None:
        self.told.append(("certificate", *certificate))
        if self.error is not None:
            raise self.error

    def snapshot(self) -> ServerStats:
        return self.stats


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    monkeypatch.setattr(Server, "told", [])
    return Server.told


@contextlib.contextmanager
def attached(control: ServerControl) -> AsyncIterator[Server]:
    server = Server()
    control._attach(server)
    control._listens()
    try:
        yield server
    finally:
        control._detach()


# Workers: they are found by their names, as in a process of their own.


async def serves(_port: int, control: ServerControl) -> None:
    with attached(control) as server:
        await server.stopped.wait()


async def fails(_port: int, _control: ServerControl) -> None:
    raise RuntimeError("this worker does not work")


async def returns(_port: int, _control: ServerControl) -> None:
    pass


async def never_listens(_port: int, _control: ServerControl) -> None:
    await trio.sleep_forever()


async def serves_among_others(port: int, control: ServerControl) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await serves(port, control)


async def lives_for_a_while(seconds: float, _port: int, control: ServerControl) -> None:
    with attached(control):
        await trio.sleep(seconds)


async def first_lives_long(port: int, control: ServerControl) -> None:
    # The third one of them.
    await lives_for_a_while(60 if next(lives) == 2 else 0, port, control)


lives = itertools.count()

#: `async with crew(worker, **options) as control:`
Crew = Callable[..., contextlib.AbstractAsyncContextManager[WorkersControl]]


@contextlib.asynccontextmanager
async def crew(worker: object, **options: Any) -> AsyncIterator[WorkersControl]:
    """Run `serve_workers`, until the block ends."""
    control = WorkersControl()
    options = {"host": HOST, "workers": 1, "control": control, **options}
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(trioanytls.serve_workers, worker, 0, **options))
        try:
            yield control
        finally:
            nursery.cancel_scope.cancel()


async def settled() -> None:
    """Until nothing happens any more, in sockets neither."""
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked()


# Their life


async def test_the_start_waits_for_all_to_listen(tasks: Tasks) -> None:
    async with crew(serves, workers=3) as control:
        assert control.running
        assert len(tasks.started) == 3
        assert (await control.snapshot()).authentications == 30
        assert repr(control) == "<trioanytls.WorkersControl of running workers>"
    assert not control.running
    assert all(task.succeeded for task in tasks.started)


async def test_the_start_does_not_wait_for_ever(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    begin = trio.current_time()
    async with crew(never_listens, workers=2):
        assert trio.current_time() - begin == pytest.approx(30)
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "worker 1: it does not listen yet",
            "worker 2: it does not listen yet",
        ]


async def test_one_that_dies_does_not_hold_up_the_start(tasks: Tasks, autojump_clock: Clock) -> None:
    begin = trio.current_time()
    async with crew(fails, workers=2):
        assert trio.current_time() == begin


@pytest.mark.parametrize("worker", [fails, returns])
async def test_the_oftener_one_ends_the_later_it_is_replaced(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, worker: object
) -> None:
    async with crew(worker):
        await trio.sleep(100)
    assert tasks.times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5])
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    code = 0 if worker is returns else 1
    assert errors[-1].getMessage() == f"worker 1 (pid 9): it has ended with exit code {code}"
    if worker is fails:
        assert errors[-2].exc_info[0] is RuntimeError


async def test_one_that_has_lived_for_a_minute_is_replaced_soon(
    tasks: Tasks, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.lives", itertools.count())
    async with crew(first_lives_long):
        await trio.sleep(64)
    assert tasks.times == pytest.approx([0, 0.5, 1.5, 62, 63])


async def test_one_that_cannot_be_started_is_tried_again(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.failure = OSError(11, "Resource temporarily unavailable")
    async with crew(serves) as control:
        assert "worker 1: it cannot be started: [Errno 11]" in caplog.text
        tasks.failure = None
        await trio.sleep(2)
        assert tasks.times == pytest.approx([0, 0.5])
        assert (await control.snapshot()).connections == 1


async def test_a_mistake_in_the_program_is_not_tried_again(tasks: Tasks) -> None:
    """As where `if __name__ == "__main__"` was forgotten."""
    tasks.failure = RuntimeError("the start of a process within the start of one")
    with pytest.raises(ExceptionGroup) as info:
        async with crew(serves):
            pytest.fail("it has started")
    assert info.group_contains(RuntimeError, match="within the start of one")


async def test_settings_are_there_before_the_server_is(tasks: Tasks, autojump_clock: Clock, told: list[object]) -> None:
    async with crew(serves) as control:
        await control.replace_users({"bob": "new"})
        tasks.started[0].kill()
        await tasks.started[0].wait()
        told.clear()
        await trio.sleep(1)
        await settled()
        assert told == [("users", {"bob": "new"})]


# Their end


async def test_all_are_drained(tasks: Tasks, told: list[object]) -> None:
    async with crew(serves, workers=2) as control:
        await control.drain(7)
        assert told == [("drain", 7)] * 2
        assert not control.running
        # What remains is what they have counted.
        assert await control.snapshot() == ServerStats(authentications=20)
        await control.drain()


async def test_the_time_to_drain_is_that_of_the_workers_by_default(tasks: Tasks, told: list[object]) -> None:
    async with crew(serves, drain_timeout=12) as control:
        await control.drain()
        assert told == [("drain", 12)]


@pytest.mark.parametrize("timeout", [0, 7])
async def test_those_that_do_not_end_are_killed(
    tasks: Tasks,
    autojump_clock: Clock,
    caplog: pytest.LogCaptureFixture,
    timeout: float,  # noqa: ASYNC109
) -> None:
    tasks.main = speaker()
    async with crew(serves, workers=2) as control:
        begin = trio.current_time()
        await control.drain(timeout)
        assert trio.current_time() - begin == pytest.approx(timeout + 10)
    for text in ("it has not ended in time, and is killed", "it has ended by signal SIGKILL"):
        assert [record.levelname for record in caplog.records if text in record.getMessage()] == ["ERROR"] * 2


async def test_cancellation_drains(tasks: Tasks, autojump_clock: Clock, told: list[object]) -> None:
    async with crew(serves, workers=2, drain_timeout=3):
        pass
    assert told == [("drain", 3)] * 2
    tasks.main = speaker()
    begin = trio.current_time()
    async with crew(serves, drain_timeout=3):
        pass
    assert trio.current_time() - begin == pytest.approx(13)


async def test_who_asks_again_can_shorten_the_time_only(tasks: Tasks, autojump_clock: Clock) -> None:
    heard: list[ipc.Message] = []
    tasks.main = speaker(heard=heard)
    async with crew(serves) as control, trio.open_nursery() as nursery:
        begin = trio.current_time()
        for timeout in (20, 30, 5, 7):
            nursery.start_soon(control.drain, timeout)
            await settled()
        await control.drain()
        assert trio.current_time() - begin == pytest.approx(15)
        assert [message["timeout"] for message in heard if message["kind"] == "drain"] == [20, 5]


async def test_cancellation_shortens_the_time(tasks: Tasks, autojump_clock: Clock) -> None:
    tasks.main = speaker()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery, crew(serves, drain_timeout=3) as control:
        nursery.start_soon(control.drain, 100)
        await trio.sleep(1)
    assert trio.current_time() - begin == pytest.approx(1 + 13)


async def test_nobody_is_replaced_any_more(tasks: Tasks, autojump_clock: Clock) -> None:
    async with crew(fails, workers=2) as control:
        await trio.sleep(0.1)
        begin = trio.current_time()
        # While they wait for their turn.
        await control.drain(5)
        assert trio.current_time() == begin
    assert len(tasks.started) == 2


async def test_one_is_drained_that_does_not_serve_yet(tasks: Tasks, autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        control = WorkersControl()
        serve = functools.partial(trioanytls.serve_workers, never_listens, 0, host=HOST, workers=1, control=control)
        nursery.start_soon(serve)
        await settled()
        begin = trio.current_time()
        await control.drain(5)
        assert trio.current_time() == begin
    assert [task.end for task in tasks.started] == ["with exit code 0"]


async def test_one_is_drained_that_is_not_up_yet(tasks: Tasks, autojump_clock: Clock) -> None:
    up, main = trio.Event(), tasks.main

    async def starts_slowly(end: socket.socket, number: int) -> int:
        await up.wait()
        return await main(end, number)

    tasks.main = starts_slowly
    async with trio.open_nursery() as nursery:
        control = WorkersControl()
        serve = functools.partial(trioanytls.serve_workers, serves, 0, host=HOST, workers=1, control=control)
        nursery.start_soon(serve)
        await settled()
        # It is not asked what it cannot know.
        assert await control.snapshot() == ServerStats()
        await control.replace_users({"bob": "new"})
        nursery.start_soon(control.drain, 5)
        await settled()
        up.set()
    assert [task.end for task in tasks.started] == ["with exit code 0"]


async def test_what_runs_beside_the_server_is_cancelled(tasks: Tasks, autojump_clock: Clock) -> None:
    async with crew(serves_among_others) as control:
        begin = trio.current_time()
        await control.drain(30)
        assert trio.current_time() - begin == pytest.approx(3)
    assert tasks.started[0].succeeded


async def test_one_that_leaves_by_itself_has_a_successor_while_it_drains(tasks: Tasks, autojump_clock: Clock) -> None:
    heard: list[ipc.Message] = []
    main, tasks.main = tasks.main, speaker({"kind": "leaving"}, heard=heard)
    async with crew(serves, drain_timeout=20) as control:
        tasks.main = main
        await trio.sleep(1)
        assert len(tasks.started) == 2
        assert not tasks.started[0].ended.is_set()
        assert (await control.snapshot(0.1)).connections == 1
        await trio.sleep(30)
        assert tasks.started[0].end == "by signal SIGKILL"
        assert not tasks.started[1].ended.is_set()


async def test_one_that_has_said_all_has_to_end(tasks: Tasks, autojump_clock: Clock) -> None:
    """Its function has returned, and its process does not end: as where a thread goes on."""
    main = tasks.main

    async def lingers(end: socket.socket, number: int) -> int:
        await main(end, number)
        await trio.sleep_forever()
        raise AssertionError

    tasks.main = lingers
    async with crew(returns):
        await trio.sleep(11)
        assert tasks.started[0].end == "by signal SIGKILL"
        assert tasks.times == pytest.approx([0, 10.5])


# The parent's death, as the worker sees it


async def test_a_worker_drains_when_its_parent_is_gone(
    autojump_clock: Clock, tasks: Tasks, told: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[tuple[object, ...]] = []
    monkeypatch.setattr(signal, "setitimer", lambda *arguments: alarms.append(arguments))
    async with trio.open_nursery() as nursery:
        task, channel = await start_alone(nursery, tasks.main, serves)
        await channel.send({"kind": "start", "drain_timeout": 20, "port": 1, "users": None, "certificate": None})
        assert await channel.receive() == {"kind": "listening"}
        channel.close()
    assert told == [("drain", 20)]
    assert task.succeeded
    # In case that something does not end.
    assert alarms == [(signal.ITIMER_REAL, 30)]


async def test_a_worker_ends_whose_parent_is_gone_before_it_is_up(autojump_clock: Clock, tasks: Tasks) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        early = Task(1)
        nursery.start_soon(early.run, theirs, 1, tasks.main)
        ours.close()
        late, channel = await start_alone(nursery, tasks.main, serves)
        channel.close()
    assert early.succeeded
    assert late.succeeded


async def test_a_function_that_cannot_be_had_is_logged(
    autojump_clock: Clock, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """As where it is defined under `if __name__ == "__main__":`."""
    async with trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        task = Task(1)
        nursery.start_soon(task.run, theirs, 1, tasks.main)
        with contextlib.closing(ipc.Channel.over(ours, math.inf)) as channel:
            await channel.send_bytes(pickle.dumps(serves).replace(b"serves", b"nobody"))
            await task.wait()
    assert task.end == "with exit code 1"
    assert "worker 1: its function cannot be had in a process of its own" in caplog.text
    assert "AttributeError" in caplog.text


async def start_alone(
    nursery: trio.Nursery, main: Callable[[socket.socket, int], object], worker: object
) -> tuple[Task, ipc.Channel]:
    """A worker without a parent that is up, and the parent's end of its channel."""
    ours, theirs = socket.socketpair()
    channel = ipc.Channel.over(ours, math.inf)
    task = Task(1)
    nursery.start_soon(task.run, theirs, 1, main)
    await channel.send_bytes(pickle.dumps(worker))
    assert await channel.receive() == {"kind": "up"}
    return task, channel


# What they are asked, and told


async def test_users_and_certificates_are_for_all(
    tasks: Tasks, told: list[object], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificate.parent)
    path = str(certificate)
    async with crew(serves, workers=2) as control:
        await control.replace_users({"bob": "new"})
        # Whatever their current directory is.
        await control.replace_certificate(Path(certificate.name), password="secret")
        await control.replace_certificate(certificate.name, certificate.name)
    exchanged = [("users", {"bob": "new"}), ("certificate", path, None, "secret"), ("certificate", path, path, "")]
    assert [call for call in told if call[0] != "drain"] == [call for call in exchanged for _ in range(2)]


@pytest.mark.parametrize("users", [{}, {"alice": "same", "bob": "same"}])
async def test_users_that_are_none_are_refused(tasks: Tasks, told: list[object], users: dict[str, str]) -> None:
    async with crew(serves) as control:
        with pytest.raises(ValueError, match="user"):
            await control.replace_users(users)
        assert told == []


async def test_a_certificate_that_is_none_is_refused(
    tasks: Tasks, told: list[object], authority: trustme.CA, tmp_path: Path
) -> None:
    async with crew(serves) as control:
        with pytest.raises(FileNotFoundError):
            await control.replace_certificate(tmp_path / "none.pem")
        authority.cert_pem.write_to_path(str(tmp_path / "without_key.pem"))
        with pytest.raises(ssl.SSLError):
            await control.replace_certificate(tmp_path / "without_key.pem")
        assert told == []


@pytest.fixture
def encrypted_key(certificate: Path, tmp_path: Path) -> Path:
    """The key of `certificate`; its password is "secret"."""
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


async def test_an_encrypted_key_without_a_password_is_an_error_and_no_question(
    tasks: Tasks, certificate: Path, encrypted_key: Path
) -> None:
    """OpenSSL would ask on the terminal, and everything would wait for that."""
    async with crew(serves) as control:
        with pytest.raises(ssl.SSLError):
            await control.replace_certificate(certificate, encrypted_key)
        await control.replace_certificate(certificate, encrypted_key, "secret")


async def test_a_certificate_that_one_worker_cannot_use(
    tasks: Tasks,
    autojump_clock: Clock,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with crew(serves) as control:
        monkeypatch.setattr(Server, "error", PermissionError("not for everybody"))
        with pytest.raises(OSError, match=re.escape("worker 1 (pid 1): not for everybody")):
            await control.replace_certificate(certificate)
        # One that comes later goes on with what it has.
        tasks.started[0].kill()
        await trio.sleep(1)
        await settled()
        assert f"the certificate {certificate} cannot be used" in caplog.text
        assert (await control.snapshot()).connections == 1


async def test_one_that_does_not_answer_is_left_out(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crew(serves, workers=2) as control:
        assert await control.snapshot() == ServerStats(connections=2, authentications=20)
        wakes, do = trio.Event(), child.WorkerMain._do
        done: list[object] = []

        async def sleeps(self: object, message: ipc.Message) -> None:
            if self._number == 2:
                await wakes.wait()
                done.append(message.get("value", message["kind"]))
            await do(self, message)

        monkeypatch.setattr(child.WorkerMain, "_do", sleeps)
        begin = trio.current_time()
        # What it has counted is counted; what it has open is not known.
        assert await control.snapshot(3) == ServerStats(connections=1, authentications=20)
        assert trio.current_time() - begin == pytest.approx(3)
        assert re.search(r"WARNING .*worker 2 \(pid \d\): it has not said within 3 seconds", caplog.text)
        for number in range(100):
            with pytest.raises(trio.TooSlowError, match=r"not confirmed by worker 2 \(pid \d\)"):
                await control.replace_users({"bob": f"{number}" + "x" * 10_000}, timeout=0.01)
            await control.snapshot(0.01)
        wakes.set()
        assert await control.snapshot() == ServerStats(connections=2, authentications=20)
        await settled()
        # It has been told all that counts in the end, and no more has been kept for it than fits.
        assert len(done) < 100
        assert [value for value in done if value != "snapshot"][-1]["bob"].startswith("99x")


async def test_one_that_is_killed_while_it_is_asked(
    tasks: Tasks, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crew(serves, workers=2) as control:
        await control.snapshot()

        async def dies(self: object, message: ipc.Message) -> None:
            tasks.started[0].kill() if self._number == 1 else tasks.started[1].kill()
            await trio.sleep_forever()

        monkeypatch.setattr(child.WorkerMain, "_do", dies)
        begin = trio.current_time()
        await control.replace_users({"bob": "new"})
        assert await control.snapshot() == ServerStats(authentications=20)
        assert trio.current_time() == begin


# What makes no sense


def raw(data: bytes) -> bytes:
    return struct.pack("!Q", len(data)) + data


GOOD = {"kind": "done", "what": "snapshot", "number": 1, "error": None}


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("!Q", 2**60),
        struct.pack("!Q", 1024 * 1024 + 1),
        raw(b""),
        raw(b"\xff"),
        raw(b"["),
        raw(b"[" * 500_000),
        raw(b"[]"),
        raw(b"{}"),
        {"kind": "end"},
        {"kind": "end", "stats": None},
        {"kind": "end", "stats": {"connections": "1"}},
        {"kind": "end", "stats": {"connections": True}},
        {"kind": "end", "stats": {"connections": -1}},
        {"kind": "end", "stats": {"connections": 1.5}},
        {"kind": "end", "stats": {"draining": 0}},
        {"kind": "end", "stats": {"connections_closed": 1}},
        {"kind": "end", "stats": {"connections_closed": {"LOST": "1"}}},
        {"kind": "done"},
        {"kind": "done", "what": [], "number": 1, "error": None},
        {"kind": "done", "what": "other", "number": 1, "error": None},
        {"kind": "done", "what": "users", "number": "1", "error": None},
        {"kind": "done", "what": "users", "number": 1, "error": 1},
        GOOD,
    ],
    ids=lambda said: repr(said)[:60],
)
async def test_one_that_says_what_makes_no_sense_is_killed(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, said: bytes | ipc.Message
) -> None:
    main, tasks.main = tasks.main, speaker(said)
    async with crew(serves) as control:
        tasks.main = main
        await trio.sleep(1)
        assert tasks.started[0].end == "by signal SIGKILL"
        assert "ERROR" in caplog.text
        assert "it says what makes no sense, and is killed" in caplog.text
        assert await control.snapshot() == ServerStats(connections=1, authentications=10)


async def test_what_a_newer_worker_counts_is_left_out(tasks: Tasks, autojump_clock: Clock) -> None:
    """The library has been replaced by a newer one since the parent was started."""
    stats = {"connections": 3, "moons": 1, "streams_refused": {"drain": 2}}
    assert ipc.unpack_stats(stats) == ServerStats(connections=3, streams_refused={"drain": 2})


def test_counters_are_passed_on_as_they_are() -> None:
    values = {}
    for number, attribute in enumerate(attrs.fields(ServerStats), start=1):
        default = getattr(ServerStats(), attribute.name)
        values[attribute.name] = True if isinstance(default, bool) else number if default == 0 else {"a": number}
    stats = ServerStats(**values)
    assert ipc.unpack_stats(json.loads(json.dumps(ipc.pack_stats(stats)))) == stats


def speaker(
    *says: bytes | ipc.Message, heard: list[ipc.Message] | None = None
) -> Callable[[socket.socket, int], object]:
    """A worker that listens, says this, and does nothing that it is told."""

    async def main(end: socket.socket, _number: int) -> int:
        channel = ipc.Channel.over(end, math.inf)
        with contextlib.closing(channel):
            await channel.receive_bytes()
            await channel.send({"kind": "up"})
            await channel.receive()
            for one in ({"kind": "listening"}, *says):
                if isinstance(one, bytes):
                    await channel._stream.send_all(one)
                else:
                    await channel.send(one)
            while True:
                message = await channel.receive()
                if heard is not None:
                    heard.append(message)

    return main


# The beginning


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"workers": -1}, {"drain_timeout": -1}, {"drain_timeout": math.nan}]
)
async def test_options_that_are_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        await trioanytls.serve_workers(serves, 0, **options)


async def test_a_function_that_is_in_no_module() -> None:
    async def local(_port: int, _control: ServerControl) -> None: ...

    with pytest.raises(TypeError, match="cannot be had in another process"):
        await trioanytls.serve_workers(local, 0)


async def test_a_port_that_somebody_has() -> None:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        with pytest.raises(OSError, match="in use"):
            await trioanytls.serve_workers(serves, listener.socket.getsockname()[1], host=HOST)


async def test_a_system_without_reuse_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(OSError, match="SO_REUSEPORT"):
        await trioanytls.serve_workers(serves, 0)


@pytest.mark.parametrize("affinity", [True, False])
async def test_there_is_a_worker_for_each_processor(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch, affinity: bool
) -> None:
    if affinity:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    else:
        monkeypatch.delattr("os.sched_getaffinity", raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 3)
    async with crew(serves, workers=None):
        assert len(tasks.started) == 3


async def test_the_port_is_held_and_let_go(tasks: Tasks) -> None:
    control = WorkersControl()
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve_workers, serves, 0, host=HOST, workers=1, control=control)
        port = await nursery.start(serve)
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(port, host=HOST)
        await control.drain(1)
    async with (await trio.open_tcp_listeners(port, host=HOST))[0]:
        pass


async def test_a_control_without_workers() -> None:
    control = WorkersControl()
    assert repr(control) == "<trioanytls.WorkersControl without running workers>"
    for use in (control.drain, control.snapshot, lambda: control.replace_users({"bob": "new"})):
        with pytest.raises(RuntimeError, match="no server has this control yet"):
            await use()
    with pytest.raises(_control.NotRunningError):
        await control.replace_certificate("none.pem")


async def test_a_control_is_for_some_workers_only(tasks: Tasks) -> None:
    async with crew(serves) as control:
        with pytest.raises(RuntimeError, match="steers other workers"):
            await trioanytls.serve_workers(serves, 0, control=control)
