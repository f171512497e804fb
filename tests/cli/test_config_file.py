"""The option --config: options from a file, and the errors in it."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from trioanytls.cli.common import config_file, option_types


@click.command()
@config_file.config_option(keys=("secret",), tables=("users",))
@click.option("--listen", type=option_types.LISTEN, default="*:1")
@click.option("--padding-scheme", type=click.Path())
@click.option("--workers", type=click.IntRange(1))
@click.option("--wait", type=float)
@click.option("--allow", multiple=True, type=option_types.NETWORK)
@click.option("--quiet", is_flag=True)
@click.option("--level", type=click.Choice(["low", "high"]))
@click.pass_context
def command(context: click.Context, /, config: Path | None, **options: Any) -> None:
    """Print all options."""
    document = config_file.document(context)
    for name, value in options.items():
        click.echo(f"{name}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    click.echo(f"document: {document and document.values.get('secret')} {document and dict(document.table('users'))}")


def invoke(tmp_path: Path, text: str, *arguments: str) -> Result:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return CliRunner().invoke(command, ["--config", str(path), *arguments])


ALL = """
listen = "[::1]:8443"
padding-scheme = "scheme.txt"
workers = 2
wait = 1
allow = ["10.0.0.0/8", "::1"]
quiet = true
level = "high"
secret = "password"
[users]
alice = "secret"
"""


def test_all_options(tmp_path: Path) -> None:
    result = invoke(tmp_path, ALL)
    assert result.output.splitlines() == [
        "listen: [::1]:8443",
        f"padding_scheme: {tmp_path / 'scheme.txt'}",
        "workers: 2",
        "wait: 1.0",
        "allow: 10.0.0.0/8, ::1/128",
        "quiet: True",
        "level: high",
        "document: password {'alice': 'secret'}",
    ]


def test_command_line_overrides_the_file(tmp_path: Path) -> None:
    result = invoke(tmp_path, ALL, "--listen", ":7", "--workers", "3", "--allow", "127.0.0.1")
    shown = set(result.output.splitlines())
    assert {"listen: *:7", "workers: 3", "allow: 127.0.0.1/32", "quiet: True", "wait: 1.0"} <= shown


def test_without_a_file() -> None:
    result = CliRunner().invoke(command, [])
    assert result.output.splitlines()[0] == "listen: *:1"
    assert result.output.splitlines()[-1] == "document: None None"


def test_single_value_of_a_multiple_option(tmp_path: Path) -> None:
    assert "allow: 10.0.0.0/8\n" in invoke(tmp_path, 'allow = "10.0.0.0/8"').output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\nlisten = 8443.5", "line 2: listen: must be a string or a port number, not a float"),
        ('listen = "host"', "line 1: listen: missing port in 'host': expected HOST:PORT"),
        ('listen = "x:66666"', "line 1: listen: invalid port '66666': expected an integer from 0 to 65535"),
        ('workers = "2"', "line 1: workers: must be an integer, not a string"),
        ("workers = 2.5", "line 1: workers: must be an integer, not a float"),
        ("workers = true", "line 1: workers: must be an integer, not a boolean"),
        ("workers = 0", "line 1: workers: 0 is not in the range x>=1"),
        ("workers = [1]", "line 1: workers: must be an integer, not a list"),
        ("wait = true", "line 1: wait: must be a number, not a boolean"),
        ("quiet = 1", "line 1: quiet: must be true or false, not an integer"),
        ("\n\nallow = [1]", "line 3: allow: must be a string or a list of them, not an integer"),
        ('allow = ["10.0.0.0/8", "10.0.0.1/8"]', "line 1: allow: '10.0.0.1/8' is an address within the network"),
        ('level = "middle"', "line 1: level: 'middle' is not one of 'low', 'high'"),
        ("level = 1979-05-27", "line 1: level: must be a string, not a date or a time"),
        ("secret = 1", "line 1: secret: must be a string, not an integer"),
        ("users = 1", "line 1: users: must be a table: write [users]"),
        ("[listen]\na = 1", "line 1: listen: must be a string or a port number, not a table"),
        ('\npading-scheme = "x"', "line 2: pading-scheme: unknown key; did you mean 'padding-scheme'?"),
        ('padding_scheme = "x"', "line 1: padding_scheme: unknown key; did you mean 'padding-scheme'?"),
        ('Listen = "x"', "line 1: Listen: unknown key; did you mean 'listen'?"),
        ("[user]\na = 1", "line 1: user: unknown key; did you mean 'users'?"),
        ("something = 1", "line 1: something: unknown key"),
        ('config = "x"', "line 1: config: unknown key"),
        ("help = true", "line 1: help: unknown key"),
        ("=", "line 1, column 1: "),
    ],
)
def test_invalid_configuration(tmp_path: Path, text: str, complaint: str) -> None:
    result = invoke(tmp_path, text)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {tmp_path / 'config.toml'}, {complaint}")
    assert result.output.count("\n") == 1


def test_missing_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert result.output == f"Error: cannot read {tmp_path / 'none.toml'}: No such file or directory\n"


def test_errors_contain_no_secret(tmp_path: Path) -> None:
    result = invoke(tmp_path, 'secret = ["open sesame"]\nworkers = "open sesame"')
    assert "sesame" not in result.output


def test_port_as_a_number(tmp_path: Path) -> None:
    assert "listen: 127.0.0.1:8443" in invoke(tmp_path, "listen = 8443").output
    assert (
        "line 1: listen: invalid port '70000': expected an integer from 0 to 65535"
        in invoke(tmp_path, "listen = 70000").output
    )
    assert "or a port number, not a boolean" in invoke(tmp_path, "listen = true").output
