"""The soak of the relay: its bookkeeping, its web server, and a short run without the browser."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

ROOT = Path(__file__).parent.parent.parent

# A program, which no installation has. At the end of the path, so that the package stays the installed one.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import relay_soak

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc as Linux has it")


def record() -> relay_soak.Record:
    """Return the record of a server that was killed at 100 and returned at 103."""
    made = relay_soak.Record()
    made.begin_outage(100)
    made.outages[0].returned = 103
    return made


@pytest.mark.parametrize(
    ("began", "ended", "excused"),
    [
        (90, 99.9, False),
        (90, 100, True),
        (101, 102, True),
        (103.9, 104.5, True),
        (104.1, 104.5, False),
    ],
)
def test_a_failure_is_excused_by_an_outage_alone(began: float, ended: float, excused: bool) -> None:
    made = record()
    made.fail("git", began, ended, "it broke")
    assert made.excused["git"] == excused
    assert made.failures == ([] if excused else [("git", ended, "it broke")])


def test_without_an_end_an_outage_goes_on() -> None:
    made = relay_soak.Record()
    made.begin_outage(100)
    assert made.is_excused(1000, 1001)
    assert not made.is_excused(98, 99)


def test_recovery_is_that_of_probes_around_the_return() -> None:
    made = record()
    for began, ended in [(99, 99.5), (101, 103.25), (103.5, 103.75), (105.5, 106)]:
        made.succeed("probe", began, ended)
    # A question of before the return says nothing, and neither does a late one.
    for began, ended in [(102.9, 103.1), (103.25, 103.5), (104, 104.1)]:
        made.succeed("udp", began, ended)
    assert made.waits == [[0.25, 0.25]]
    assert made.first_answers == [0.5]
    assert made.succeeded == {"probe": 4, "udp": 3}


def test_it_passes_only_if_all_recovered_in_time_and_nothing_failed() -> None:
    made = record()
    assert not made.passed  # no probe was seen after the return
    made.succeed("probe", 101, 103.5)
    assert made.passed  # there were no questions by UDP at all
    made.succeed("udp", 104.5, 104.6)
    assert not made.passed
    made.first_answers[0] = 0.5
    assert made.passed
    made.idle.append((60, False))
    assert not made.passed
    made.idle[0] = (60, True)
    made.waits[0].append(1.1)
    assert not made.passed
    made.waits[0].pop()
    made.fail("udp", 200, 202, "no answer")
    assert not made.passed


def test_the_kills_share_out_the_time() -> None:
    assert relay_soak.Plan(600, kills=3, outage=2).quiet == pytest.approx(148.5)


def test_the_origin_gives_pages_pictures_and_files_of_its_directory(tmp_path: Path) -> None:
    reports: list[tuple[float, float, int]] = []
    files = tmp_path / "files"
    files.mkdir()
    (files / "one").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"2")
    origin = relay_soak.Origin(files, lambda *given: reports.append(given))

    assert b'frame.src = "/frame?"' in origin.answer("/")[2]
    assert b"number < 100" in origin.answer("/frame?7")[2]
    assert origin.answer("/picture/3.svg?7")[1:] == ("image/svg+xml", relay_soak.PICTURE)
    assert origin.answer("/one")[2] == b"1"
    for target in ("/two", "/../secret", "//secret"):
        assert origin.answer(target)[0] == "404 Not Found"
    assert origin.answer("/report?began=1500&ended=2500&failed=3")[0] == "200 OK"
    assert reports == [(1.5, 2.5, 3)]


async def test_the_origin_serves_one_request_after_the_other(tmp_path: Path) -> None:
    ours, its = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        origin: Any = relay_soak.Origin(tmp_path, lambda *_: None)
        nursery.start_soon(origin, its)
        said = b""
        for _ in range(2):
            # In two pieces.
            await ours.send_all(b"GET /picture/1.svg HTTP/1.1\r\nHo")
            await ours.send_all(b"st: a\r\n\r\n")
            while said.count(relay_soak.PICTURE) < 1:
                said += await ours.receive_some()
            assert said.startswith(b"HTTP/1.1 200 OK\r\n")
            assert said.endswith(relay_soak.PICTURE)
            said = b""
        await ours.aclose()


def test_what_is_printed_names_failures(capsys: pytest.CaptureFixture[str]) -> None:
    made = record()
    made.succeed("probe", 101, 103.5)
    made.idle.append((61, True))
    made.memory.append(("client", "at the start", 3 << 20))
    made.fail("git", 200, 201, "no [repository]")
    relay_soak.show(made)
    said = " ".join(capsys.readouterr().out.split())
    assert "return 1: 0.500 s for the slowest of 1 connections" in said
    assert "SSH, silent for 61 s: it lives" in said
    assert "memory of the client, at the start: 3.0 MiB" in said
    assert "failure of git at 201.0: no [repository]" in said


@linux
def test_a_short_run_recovers_from_a_kill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # How fast that is on a busy machine, no test asks.
    monkeypatch.setattr(relay_soak, "GRACE", 30.0)
    arguments = ["--minutes", "0.04", "--kills", "1", "--outage", "0.2", "--json"]
    without = [part for load in ("chromium", "ssh", "git") for part in ("--without", load)]
    assert relay_soak.main([*arguments, *without]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["failures"] == []
    assert said["succeeded"]["probe"] > 0
    assert said["succeeded"]["udp"] > 0
    [outage] = said["outages"]
    assert outage["killed"] < outage["returned"] < math.inf
    assert len(said["waits"]) == 1
    assert said["waits"][0]
    assert [(name, moment) for name, moment, _ in said["memory"]] == [
        (name, moment)
        for moment in ("at the start", "after stretch 1", "after stretch 2")
        for name in ("client", "server")
    ]


def can_serve_ssh() -> bool:
    """Return whether sshd and what it wants are there: as root, a directory, or the right to mount one."""
    programs = ("ssh", "ssh-keygen", "sshd")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    if not all(shutil.which(one, path=path) for one in programs):
        return False
    if os.geteuid() != 0 or Path("/run/sshd").is_dir():
        return True
    return bool(shutil.which("unshare")) and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@linux
@pytest.mark.skipif(sys.platform == "win32" or not can_serve_ssh(), reason="sshd is not installed, or cannot be run")
async def test_a_session_by_ssh_answers(tmp_path: Path) -> None:
    ssh = relay_soak.SSH(tmp_path)
    with trio.fail_after(60):
        async with ssh.serve():
            for _ in range(100):
                # Until it listens.
                async with ssh.session(ssh.port) as session:
                    if await relay_soak.answers(session):
                        assert await relay_soak.answers(session)
                        break
            else:
                raise AssertionError((tmp_path / "ssh.log").read_text() + (tmp_path / "sshd.log").read_text())
        async with ssh.session(ssh.port) as session:
            assert not await relay_soak.answers(session)
