"""The log lines and the output at the start of a server."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from trioanytls.cli.common.option_types import PublicAddress
from trioanytls.cli.server import client_uri
from trioanytls.cli.server import run as run_module
from trioanytls.cli.server.settings import ServerSettings

from .conftest import SERVER_CONFIG


def announce(settings: ServerSettings, **changes: Any) -> None:
    run_module.announce(attrs.evolve(settings, **changes), 8443)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO, "trioanytls.cli")
    return lambda: "\n".join(caplog.messages)


def test_announcement(
    collect_server: Callable[..., ServerSettings], capsys: pytest.CaptureFixture[str], said: Callable[..., Any]
) -> None:
    settings = collect_server(
        "--allow", "10.0.0.0/8", "--deny", "10.1.0.0/16", "--deny", "1.1.1.1", config=SERVER_CONFIG
    )
    announce(settings, public=PublicAddress("192.0.2.7"), is_guessed=True)
    assert capsys.readouterr().out.startswith("anytls://sesame%20of%20password@192.0.2.7:8443/?pin=")
    assert "destinations allowed by --allow: 10.0.0.0/8" in said()
    assert "destinations denied by --deny: 10.1.0.0/16, 1.1.1.1/32" in said()
    assert "The URI uses this machine's address 192.0.2.7; pass --public-host if clients use another one" in said()


def test_outbound_instead_of_a_uri(
    collect_server: Callable[..., ServerSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    announce(collect_server("--print", "sing-box", "--public-host", "relay.example", "-q", config=SERVER_CONFIG))
    [outbound] = json.loads(capsys.readouterr().out)["outbounds"]
    assert (outbound["server"], outbound["server_port"]) == ("relay.example", 8443)
    announce(collect_server("--print", "mihomo", "--public-host", "relay.example", "-q", config=SERVER_CONFIG))
    assert capsys.readouterr().out.startswith('proxies:\n  - name: "trioanytls"\n')
    announce(collect_server("--print", "mihomo", "--no-print-uri", config=SERVER_CONFIG))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("scheme", "warning"),
    [
        (b"stop=1001\n", "the scheme's stop is 1001, but clients with the default limits accept at most 1000"),
        (b"stop=2\n1=65535-65535,65535-65535,65535-65535,65535-65535,4-4\n", "the scheme's largest deliver is 262144"),
        (b"stop=2\n1=65535-65535,65535-65535,65535-65535,65535-65535,5-5\n", "the scheme's largest deliver is 262145"),
        (
            b"stop=1000\n" + b"".join(b"%d=5000-5000\n" % index for index in range(1000)),
            "the scheme's total is 5000000",
        ),
    ],
)
def test_warning_about_a_scheme_that_clients_reject(
    collect_server: Callable[..., ServerSettings], said: Callable[..., Any], tmp_path: Path, scheme: bytes, warning: str
) -> None:
    (tmp_path / "scheme").write_bytes(scheme)
    # Such a scheme is not for legacy clients in any case.
    announce(collect_server("-q", "--protocol", "anytls1", config=SERVER_CONFIG + 'padding-scheme = "scheme"\n'))
    within = "262144" in warning
    assert (warning in said()) is not within
    assert ("--padding-scheme" in said()) is not within


def test_uri_that_is_not_printed(
    collect_server: Callable[..., ServerSettings],
    capsys: pytest.CaptureFixture[str],
    said: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = collect_server(config=SERVER_CONFIG)
    announce(settings, print_uri=False)
    announce(settings, public=PublicAddress("not-$a-host"))
    assert "cannot make a URI for clients: " in said()
    announce(collect_server("-q", config=SERVER_CONFIG))
    many = {f"user {number}": f"{number}" for number in range(11)}
    announce(attrs.evolve(settings, serving=attrs.evolve(settings.serving, users=many)))
    assert "the URIs of 11 users are not printed" in said()
    monkeypatch.setattr(client_uri, "is_journal", lambda: True)
    announce(settings)
    assert "is not printed to the journal; pass --print-uri to print it" in said()
    assert capsys.readouterr().out == ""
    # --print-uri overrides this.
    announce(settings, print_uri=True)
    assert "anytls://" in capsys.readouterr().out
