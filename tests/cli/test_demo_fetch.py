"""The second part of `trioanytls demo`: files fetched through the relay, with and without curl."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from trioanytls.cli import main
from trioanytls.cli.demo import fetch, report, upload
from trioanytls.cli.demo.results import Fetched

SIZES = fetch.Sizes(large=1_000_000, small=1000, small_files=20)


@pytest.fixture
def python_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_fetch_with_curl() -> None:
    outcomes = await fetch.fetch_all(SIZES)
    assert [outcome.how for outcome in outcomes] == ["curl through SOCKS5", "curl through HTTP proxy"]
    for outcome in outcomes:
        assert outcome.failed == []
        assert (outcome.files, outcome.size) == (21, 1_020_000)


@pytest.mark.usefixtures("python_only")
async def test_fetch_without_curl() -> None:
    (outcome,) = await fetch.fetch_all(SIZES)
    assert outcome.how == "Python through HTTP proxy"
    assert outcome.failed == []
    assert (outcome.files, outcome.size) == (21, 1_020_000)


def test_wrong_and_missing_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = fetch.Sizes(large=100_000, small=10, small_files=2)
    for name in ("large", "small-1"):
        (tmp_path / name).write_bytes(b"".join(fetch._content(name, sizes)))
    (tmp_path / "large").write_bytes((tmp_path / "large").read_bytes()[:-1] + b"?")
    outcome = Fetched("somehow")
    fetch._compare(tmp_path, sizes, outcome)
    assert outcome.files == 1
    assert outcome.failed == ["large: the digest differs", "small-0: No such file or directory"]
    report.show_fetched([outcome])
    shown = capfd.readouterr()
    assert "somehow" in shown.out
    assert "large: the digest differs" in shown.err


@pytest.mark.usefixtures("python_only")
def test_command_fails_if_a_fetch_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.py").write_bytes(b"pass")
    monkeypatch.setattr(fetch, "_by_python", lambda *arguments: None)
    monkeypatch.setattr(fetch, "Sizes", lambda: SIZES)
    result = CliRunner().invoke(main.trioanytls, ["demo", "--directory", str(tmp_path)])
    assert result.exit_code == 1
    assert "not fetched intact: 21" in result.output
    assert upload.run(tmp_path) == 0
