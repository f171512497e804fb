"""TOML files with line numbers: the lines of their keys, and their errors."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.cli.common import toml_lines
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
    # A key within a value has the line of that value.
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
def test_lines_of_random_files(values: dict[str, Any], gap: int) -> None:
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
def test_invalid_toml(tmp_path: Path, text: bytes | str, complaint: str) -> None:
    with pytest.raises(ConfigError) as info:
        load(tmp_path, text)
    message = str(info.value)
    assert message.startswith(str(tmp_path / "config.toml"))
    assert complaint in message
    assert message.isprintable()


def test_unreadable_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot read "):
            toml_lines.read(path)


def test_tables(tmp_path: Path) -> None:
    document = load(tmp_path, "a = 1\n[b]\nc = 2")
    assert document.table("b") == {"c": 2}
    assert document.table("missing") == {}
    with pytest.raises(ConfigError, match=r"line 1: a: must be a table: write \[a\]"):
        document.table("a")
