"""The measurement of a path with a delay, short: that it measures both directions, with and without extensions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# A program, which no installation has. At the end of the path, so that the package stays the installed one.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import delayed_path


def test_it_measures_both_directions(capsys: pytest.CaptureFixture[str]) -> None:
    settings = delayed_path.Settings(0.005, 10e6, 0.3, 3)
    options = ["--delay", "0.005", "--rate", "10e6", "--seconds", "0.3", "--streams", "3"]
    assert delayed_path.main([*options, "--json"]) == 0
    figures = [delayed_path.Figures(**one) for one in json.loads(capsys.readouterr().out)]
    assert [(one.direction, one.extensions) for one in figures] == [
        (direction, extensions) for direction in ("download", "upload") for extensions in (False, True)
    ]
    for one in figures:
        # The path is the limit, except for the bytes in its buffers.
        assert 0 < one.rate <= settings.rate
        assert 0 < one.total < 5 * settings.rate
        assert 0 <= one.least <= 1 <= one.most <= 3
    delayed_path.show(figures, settings)
    shown = capsys.readouterr().out
    assert "a path with 10 ms and 10 MB/s" in shown
    assert all(shown.count(name) == 2 for name in ("download", "upload", "yes"))


def test_netem_runs_the_program_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    assert delayed_path.main(["--delay", "0.02", "--netem", "--json"]) == 7
    [command] = started
    assert command[:4] == ["unshare", "--net", "sh", "-c"]
    assert "netem delay 20ms rate 200000000bit" in command[4]
    assert command[6:] == [sys.executable, "-m", "benchmarks.delayed_path", "--direct", "--delay", "0.02", "--json"]
