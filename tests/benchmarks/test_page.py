"""The figures of docs/performance.md are those of the run that the repository keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Programs, which no installation has. At the end of the path, so that the package stays the installed one.
with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import __main__ as command_line
    from benchmarks import page, report, summary, targets
    from benchmarks.peers import BASE, PEERS
    from benchmarks.results import Outcome, Results
    from benchmarks.work import WORKS

MACHINE = {"commit": "1a2b3c4", "python": "3.11.7", "openssl": "OpenSSL 3.0.19", "trio": "0.30.0", "cores": "2"}
TEXT = """# Title

<!-- targets: written by a program -->

old
<!-- end of targets -->
Between.

<!-- figures: written by a program -->

<!-- end of figures -->
"""


def run() -> Results:
    results = Results(quick=False, rounds=2, seconds=12.34)
    for number, rate in ((1, 1000.04), (2, 1100.0)):
        results.add("a", BASE, Outcome(number, {"rate": rate}))
    for number, rate in ((1, 1500.06), (2, 1760.0)):
        results.add("a", "trioanytls", Outcome(number, {"rate": rate}))
    results.add("a", "h2_inline", Outcome(1, problem="failed: OSError: out of luck"))
    results.add("g", "trioanytls", Outcome(1, {"client": 0.78123, "server": 4.31}))
    return results


def test_the_page_shows_the_run_that_is_kept() -> None:
    results, machine = page.kept(page.FIGURES.read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_tables(text, results, machine) == text


def test_the_run_that_is_kept_is_a_whole_one() -> None:
    results, machine = page.kept(page.FIGURES.read_text(encoding="utf-8"))
    assert results.rounds == 5
    measured = {peer for _, peer in results.outcomes}
    assert {BASE, "trioanytls", "relay"} <= measured
    # A peer that was added later has no figures yet: they need ten minutes of an idle machine.
    missing = [(work, peer) for peer in measured for work in PEERS[peer].works if not results.of(work, peer)]
    assert not missing
    assert {"commit", "python", "openssl", "system", "cores"} <= machine.keys()


def test_every_target_has_a_figure() -> None:
    results, _ = page.kept(page.FIGURES.read_text(encoding="utf-8"))
    if {peer for _, peer in results.outcomes} == PEERS.keys():
        assert [one.target for one in targets.evaluate(results) if one.figure == "not measured"] == []


def test_a_run_is_kept_with_its_figures_problems_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    page.PAGE.write_text(TEXT, encoding="utf-8")
    page.keep(run(), {"cores": "2"})
    text = page.FIGURES.read_text(encoding="utf-8")
    assert json.loads(text)["seconds"] == 12.3
    again, machine = page.kept(text)
    assert machine == {"cores": "2"}
    assert again.rounds == 2
    # Five digits are kept.
    assert again.of("a", BASE) == [Outcome(1, {"rate": 1000.0}), Outcome(2, {"rate": 1100.0})]
    assert again.of("a", "h2_inline") == run().of("a", "h2_inline")
    assert again.of("g", "trioanytls") == [Outcome(1, {"client": 0.78123, "server": 4.31})]
    written = page.PAGE.read_text(encoding="utf-8")
    assert page.with_tables(written, again, machine) == written
    # Keeping what was kept changes nothing.
    page.keep(again, machine)
    assert page.FIGURES.read_text(encoding="utf-8") == text


def test_the_tables_have_medians_ratios_and_problems() -> None:
    text = page.with_tables(TEXT, run(), MACHINE)
    assert "| (a) at least 1.45 times the bare stream | 1.55 times [1.50 to 1.60] | yes |\n" in text
    assert "| (c) at least 4.5 times the bare stream | not measured |  |\n" in text
    assert (
        "| (a) bulk, one stream, 64 KiB writes, rate | bare SSLStream | 1,050 MB/s | 1.00 (1.00 to 1.00) | 2 |\n"
        in text
    )
    assert "| trioanytls | 1,630 MB/s | 1.55 (1.50 to 1.60) | 2 |\n" in text
    assert "| h2, inline writes | failed: OSError: out of luck |  |  |\n" in text
    assert "| trioanytls | 0.78 KiB; server, a handler task each 4.31 KiB |  | 1 |\n" in text
    assert "\nBetween.\n" in text
    assert "old" not in text
    assert "\nCommit 1a2b3c4, Python 3.11.7, OpenSSL 3.0.19, Trio 0.30.0, 2 cores.\n" in text


def test_a_target_that_is_missed_is_bold() -> None:
    results = run()
    results.add("c", BASE, Outcome(1, {"rate": 1000.0}))
    results.add("c", "trioanytls", Outcome(1, {"rate": 3000.0}))
    text = page.with_tables(TEXT, results, {})
    assert "| (c) at least 4.5 times the bare stream | 3.00 times [3.00 to 3.00] | **no** |\n" in text


def test_the_page_and_the_terminal_agree() -> None:
    results, _ = page.kept(page.FIGURES.read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    for work, peer in {("a", "trioanytls"), ("o", "trioanytls"), ("r", "relay")}:
        spread = summary.figure(results, work, peer, WORKS[work].figures[0].key)
        assert spread is not None
        assert f"| {report.number(spread.median, WORKS[work].figures[0])}" in text


@pytest.mark.parametrize("part", [["--quick"], ["--only", "trioanytls"], ["--work", "a"], ["--group", "bulk"]])
def test_a_part_of_a_run_is_not_kept(part: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["--page", *part])
    assert stopped.value.code == 2
    assert "--page needs a whole run" in capsys.readouterr().err
