"""The measurement of the relay's memory, small: that it measures, and that everything comes back whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# A program, which no installation has. At the end of the path, so that the package stays the installed one.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import relay_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc as Linux has it")


def test_it_measures_both_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(relay_memory, "STILL", 0.05)
    monkeypatch.setattr(relay_memory, "LINGER", 0.05)
    size = 200_000
    arguments = ["--connections", "10", "--size", str(size), "--streams", "4", "--rounds", "1"]
    assert relay_memory.main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    result = relay_memory.Result(**{**said, "figures": [relay_memory.Figures(**one) for one in said["figures"]]})
    assert (result.intact, result.connections) == (10, 10)
    assert [(one.part, one.process) for one in result.figures] == [
        (part, process) for part in ("all sides read", "no side reads") for process in ("client", "server")
    ]
    for one in result.figures:
        assert len(one.peaks) == 1
        assert min(one.rest, one.after, *one.peaks) > relay_memory.MIB

    relay_memory.show(result, size)
    shown = capsys.readouterr().out
    assert "10 of 10 connections" in shown
    assert all(shown.count(name) == 2 for name in ("client", "server", "all sides read", "no side reads"))
