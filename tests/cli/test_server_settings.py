"""The settings of a server, from its options, the environment and its configuration file."""

import json
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

import trioanytls
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.server.certificate_files import CertificateFiles
from trioanytls.cli.server.settings import ServerSettings
from trioanytls.destination import Destination

from .conftest import SERVER_CONFIG

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize(
    ("arguments", "config", "environment", "users"),
    [
        ([], SERVER_CONFIG, None, {"user": "sesame of password"}),
        (["--password-file", "other"], SERVER_CONFIG, None, {"user": "sesame of other"}),
        ([], SERVER_CONFIG, "sesame", {"user": "sesame"}),
        (["--password-file", "other"], SERVER_CONFIG, "sesame", {"user": "sesame of other"}),
        (["--password-insecure", "open sesame"], SERVER_CONFIG, "sesame", {"user": "open sesame"}),
        ([], 'cert = "one.pem"\npassword = "the sesame"', None, {"user": "the sesame"}),
        ([], 'cert = "one.pem"\npassword = "the sesame"', "sesame", {"user": "sesame"}),
        ([], SERVER_CONFIG + '[users]\nalice = "sesame"', None, {"user": "sesame of password", "alice": "sesame"}),
        (["--password-file", "other"], SERVER_CONFIG + '[users]\nalice = "sesame"', None, {"user": "sesame of other"}),
        (["--cert", "one.pem", "--password-file", "password"], None, None, {"user": "sesame of password"}),
    ],
)
def test_precedence_of_passwords(
    collect_server: Callable[..., ServerSettings],
    arguments: list[str],
    config: str | None,
    environment: str | None,
    users: dict[str, str],
) -> None:
    settings = collect_server(*arguments, config=config, environment={"TRIOANYTLS_PASSWORD": environment})
    assert settings.serving.users == users
    assert settings.secrets.read_users() == users
    # The repr of the settings contains no secret.
    assert "sesame" not in repr(settings)


def test_precedence_of_certificates(collect_server: Callable[..., ServerSettings], tmp_path: Path) -> None:
    def used(*arguments: str, config: str = SERVER_CONFIG) -> CertificateFiles:
        return collect_server(*arguments, config=config).serving.certificate

    assert used().certificate.name == "one.pem"
    assert used("--cert", "two.pem").certificate.name == "two.pem"
    # A key in the file does not apply to a certificate on the command line.
    with_key = SERVER_CONFIG + 'key = "one.pem"'
    assert str(used(config=with_key).key) == "one.pem"
    assert used("--cert", "two.pem", config=with_key).key is None
    assert used("--self-signed", "--state-dir", "state").certificate.name == "self-signed.pem"
    own = 'self-signed = true\nstate-dir = "state"\npassword = "sesame"'
    assert used(config=own).certificate.resolve() == tmp_path / "state" / "self-signed.pem"
    assert used("--cert", "two.pem", config=own).certificate.name == "two.pem"


@pytest.mark.parametrize(
    ("arguments", "config", "protocols"),
    [
        ([], "", ("anytls1", "legacy")),
        (["--protocol", "legacy"], "", ("legacy",)),
        (["--protocol", "legacy", "--protocol", "anytls1", "--protocol", "legacy"], "", ("legacy", "anytls1")),
        ([], 'protocol = "anytls1"', ("anytls1",)),
        ([], 'protocol = ["anytls1", "legacy"]', ("anytls1", "legacy")),
        (["--protocol", "legacy"], 'protocol = "anytls1"', ("legacy",)),
    ],
)
def test_wire_formats(
    collect_server: Callable[..., ServerSettings], arguments: list[str], config: str, protocols: tuple[str, ...]
) -> None:
    assert collect_server(*arguments, config=SERVER_CONFIG + config).serving.protocols == protocols


def test_outbounds_are_printed_even_where_uris_are_not(collect_server: Callable[..., ServerSettings]) -> None:
    def printed(*arguments: str, config: str = "") -> tuple[bool | None, str | None]:
        settings = collect_server(*arguments, config=SERVER_CONFIG + config)
        return settings.print_uri, settings.outbound

    assert printed() == (None, None)
    assert printed("--print", "sing-box") == (True, "sing-box")
    assert printed(config='print = "mihomo"') == (True, "mihomo")
    assert printed("--print", "mihomo", "--no-print-uri") == (False, "mihomo")


def test_log_level(collect_server: Callable[..., ServerSettings]) -> None:
    for arguments, config, level in (
        ([], "", logging.INFO),
        (["-q"], "", logging.WARNING),
        (["-v"], "", logging.DEBUG),
        ([], "quiet = true", logging.WARNING),
        (["-v"], "quiet = true", logging.DEBUG),
    ):
        assert collect_server(*arguments, config=SERVER_CONFIG + config).serving.log.level == level


def test_settings_can_be_pickled_for_workers(collect_server: Callable[..., ServerSettings], tmp_path: Path) -> None:
    (tmp_path / "scheme").write_bytes(b"stop=2\n1=1-2\n")
    config = (
        SERVER_CONFIG
        + 'padding-scheme = "scheme"\nallow = "10.0.0.0/8"\nfallback = "127.0.0.1:1"\n[connection]\nmax_streams = 3'
    )
    serving = collect_server(config=config).serving
    assert pickle.loads(pickle.dumps(serving)) == serving
    assert (serving.config.max_streams, serving.config.acknowledge) == (3, "manual")
    assert serving.fallback == Destination("127.0.0.1", 1)


@pytest.mark.default_extensions
def test_connection_settings_in_the_file(collect_server: Callable[..., ServerSettings]) -> None:
    defaults = {**attrs.asdict(trioanytls.Config()), "extensions": ["fin", "goaway", "reset", "window"]}
    table = "\n".join(
        f"{one.name} = {json.dumps(defaults[one.name]) if defaults[one.name] != float('inf') else 'inf'}"
        for one in attrs.fields(trioanytls.Config)
        if one.name not in ("acknowledge", "drain_timeout") and one.metadata.get("side") != "client"
    )
    assert collect_server(config=f"{SERVER_CONFIG}\n[connection]\n{table}").serving.config == trioanytls.Config(
        acknowledge="manual"
    )


@pytest.mark.default_extensions
def test_extensions(collect_server: Callable[..., ServerSettings]) -> None:
    for arguments, config, extensions in (
        ([], "", {"fin", "goaway", "reset", "window"}),
        (["--extensions", "none"], "", set()),
        ([], 'extensions = "fin,window"', {"fin", "window"}),
        (["--extensions", "reset"], '[connection]\nextensions = ["fin"]', {"reset"}),
    ):
        config_of = collect_server(*arguments, config=f"{SERVER_CONFIG}\n{config}\n").serving.config
        assert config_of.extensions == extensions


def test_example_in_the_documentation(collect_server: Callable[..., ServerSettings], tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (DOCS / "server.md").read_text(encoding="utf-8"), re.DOTALL)
    made = make_certificate("relay.example")
    (tmp_path / "fullchain.pem").write_bytes(made.certificate)
    (tmp_path / "privkey.pem").write_bytes(made.key)
    settings = collect_server(config=example)
    assert settings.serving.users == {"alice": "open sesame", "bob": "another one"}
    assert (settings.workers, settings.serving.config.max_streams) == (2, 256)
