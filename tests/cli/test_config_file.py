"""Configuration files: what is in them, what is wrong with them, and on which line."""

import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.cli.common import config_file, option_types, toml_lines
from trioanytls.cli.common.toml_lines import ConfigError

TEXT = '''\
# A comment with = and [brackets].
listen = "127.0.0.1:8443"  # and one more: key = 1

"quoted.key" = 1
'literal key' = """
users = "not a key"
[table] and \\""" more """""
allow = [
    "10.0.0.0/8",  # ]
    "a = 1",
]
   indented=true
dotted . key = 1979-05-27
inline = { a = 1, "b" = { c = [ 2 ] } }

[users]
alice = "secret"
"bob [x] = 1" = \'\'\'
mallory = 1
\'\'\'
[ "a b" . c ]
key = '#'
[[list]]
key = 1
[[list]]
key = 2
last = 1.5'''


def load(tmp_path: Path, text: bytes | str) -> toml_lines.Document:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return toml_lines.read(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines(tmp_path: Path, newline: str) -> None:
    document = load(tmp_path, TEXT.replace("\n", newline))
    assert dict(document.values) == tomllib.loads(TEXT)
    lines = {
        ("listen",): 2,
        ("quoted.key",): 4,
        ("literal key",): 5,
        ("allow",): 8,
        ("indented",): 12,
        ("dotted", "key"): 13,
        ("inline",): 14,
        ("users",): 16,
        ("users", "alice"): 17,
        ("users", "bob [x] = 1"): 18,
        ("a b", "c"): 21,
        ("a b", "c", "key"): 22,
        ("list", "last"): 27,
    }
    for key, line in lines.items():
        assert str(document.error(key, "wrong")) == f"{document.path}, line {line}: {'.'.join(key)}: wrong"
    # What is within a value stands where that does.
    assert f"line {lines['inline',]}: " in str(document.error(("inline", "b", "c"), "wrong"))
    assert str(document.error(("missing",), "wrong")) == f"{document.path}: missing: wrong"


def test_empty(tmp_path: Path) -> None:
    for text in ("", "\n\n", "# nothing"):
        assert not load(tmp_path, text).values


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1),
        st.one_of(st.booleans(), st.integers(-99, 99), st.lists(st.booleans()), st.text("\"'[]{}#=\n\\ a.")),
        min_size=1,
    ),
    st.integers(0, 2),
)
def test_lines_of_whatever(values: dict[str, Any], gap: int) -> None:
    written = ""
    expected = {}
    for key, value in values.items():
        expected[key,] = written.count("\n") + 1
        if isinstance(value, str):
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            text = f'"""{quoted}"""' if "\n" in value else f'"{quoted}"'
        else:
            text = str(value).lower()
        written += f'"{key}" = {text}' + "\n" * (gap + 1)
    parsed = tomllib.loads(written)
    assert list(parsed) == list(values)
    assert dict(toml_lines._find_keys(written)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listen = ", ": Invalid value at the end"),
        ("a = 1\na = 2\nb = 3", ", line 2, column 6: Cannot overwrite a value"),
        ("a = 1\nb = 'x", ': Expected "\'" at the end'),
        ("a = 1\n[b", "at the end"),
        (b"a = 1\n# \xff\n", ", line 2: invalid UTF-8"),
        (b"\0", ", line 1"),
        ("# " + "x" * (1 << 20), "the limit is 1048576 bytes"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, text: bytes | str, complaint: str) -> None:
    with pytest.raises(ConfigError) as info:
        load(tmp_path, text)
    message = str(info.value)
    assert message.startswith(str(tmp_path / "config.toml"))
    assert complaint in message
    assert message.isprintable()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot read "):
            toml_lines.read(path)


def test_tables(tmp_path: Path) -> None:
    document = load(tmp_path, "a = 1\n[b]\nc = 2")
    assert document.table("b") == {"c": 2}
    assert document.table("missing") == {}
    with pytest.raises(ConfigError, match=r"line 1: a: must be a table: write \[a\]"):
        document.table("a")


# Options from a file


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
    """What there is, for the test."""
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


def test_the_command_line_wins(tmp_path: Path) -> None:
    result = invoke(tmp_path, ALL, "--listen", ":7", "--workers", "3", "--allow", "127.0.0.1")
    shown = set(result.output.splitlines())
    assert {"listen: *:7", "workers: 3", "allow: 127.0.0.1/32", "quiet: True", "wait: 1.0"} <= shown


def test_without_a_file() -> None:
    result = CliRunner().invoke(command, [])
    assert result.output.splitlines()[0] == "listen: *:1"
    assert result.output.splitlines()[-1] == "document: None None"


def test_one_of_several(tmp_path: Path) -> None:
    assert "allow: 10.0.0.0/8\n" in invoke(tmp_path, 'allow = "10.0.0.0/8"').output


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\nlisten = 8443.5", "line 2: listen: must be a string or a port number, not a number"),
        ('listen = "host"', "line 1: listen: 'host' has no port: it is written HOST:PORT"),
        ('listen = "x:66666"', "line 1: listen: the port is a number from 0 to 65535, not '66666'"),
        ('workers = "2"', "line 1: workers: must be an integer, not a string"),
        ("workers = 2.5", "line 1: workers: must be an integer, not a number"),
        ("workers = true", "line 1: workers: must be an integer, not true or false"),
        ("workers = 0", "line 1: workers: 0 is not in the range x>=1"),
        ("workers = [1]", "line 1: workers: must be an integer, not a list"),
        ("wait = true", "line 1: wait: must be a number, not true or false"),
        ("quiet = 1", "line 1: quiet: must be true or false, not a number"),
        ("\n\nallow = [1]", "line 3: allow: must be a string or a list of them, not a number"),
        ('allow = ["10.0.0.0/8", "10.0.0.1/8"]', "line 1: allow: '10.0.0.1/8' is an address within the network"),
        ('level = "middle"', "line 1: level: 'middle' is not one of 'low', 'high'"),
        ("level = 1979-05-27", "line 1: level: must be a string, not a date or a time"),
        ("secret = 1", "line 1: secret: must be a string, not a number"),
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
def test_what_is_wrong(tmp_path: Path, text: str, complaint: str) -> None:
    result = invoke(tmp_path, text)
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {tmp_path / 'config.toml'}, {complaint}")
    assert result.output.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--config", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert result.output == f"Error: cannot read {tmp_path / 'none.toml'}: No such file or directory\n"


def test_no_secret_is_in_an_error(tmp_path: Path) -> None:
    result = invoke(tmp_path, 'secret = ["open sesame"]\nworkers = "open sesame"')
    assert "sesame" not in result.output


# Addresses to listen on


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("[::]:443", "::", 443, "[::]:443"),
        ("localhost:0", "localhost", 0, "localhost:0"),
        (":8443", None, 8443, "*:8443"),
        ("*:8443", None, 8443, "*:8443"),
        ("8443", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("0", "127.0.0.1", 0, "127.0.0.1:0"),
    ],
)
def test_listen_address(text: str, host: str | None, port: int, shown: str) -> None:
    address = option_types.ListenAddress.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1080", "127.0.0.1:1080"),
        (":1080", "127.0.0.1:1080"),
        ("*:1080", "*:1080"),
        ("0.0.0.0:1080", "0.0.0.0:1080"),
        ("[::1]:1080", "[::1]:1080"),
    ],
)
def test_where_a_front_end_listens(text: str, shown: str) -> None:
    """A port without a host is never one of all addresses."""
    assert str(option_types.ListenAddress.parse_local(text)) == shown


@pytest.mark.parametrize("text", ["65536", ":65536", "-1", "+80", "\u0661", "1_0"])
def test_a_port_alone_that_is_none(text: str) -> None:
    for parse in (option_types.ListenAddress.parse, option_types.ListenAddress.parse_local):
        with pytest.raises(ValueError, match="port"):
            parse(text)


def test_a_port_can_be_a_number(tmp_path: Path) -> None:
    assert "listen: 127.0.0.1:8443" in invoke(tmp_path, "listen = 8443").output
    assert (
        "line 1: listen: the port is a number from 0 to 65535, not '70000'" in invoke(tmp_path, "listen = 70000").output
    )
    assert "or a port number, not true or false" in invoke(tmp_path, "listen = true").output


@pytest.mark.parametrize("text", ["", "*", "localhost", "::1:80", "*:65536", ":x", "a b:1"])
def test_listen_address_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port|host|colon"):
        option_types.ListenAddress.parse(text)
