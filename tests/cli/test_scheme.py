"""`trioanytls scheme show`: tables, pictures, and invalid files."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from trioanytls import PaddingScheme
from trioanytls.cli.scheme import table

from .test_main import invoke, run_without

PNG_SIZE = (1000, 300)


def words(line: str) -> list[str]:
    """Split a row into its words, regardless of the widths of its columns."""
    return line.split()


def rows(output: str) -> dict[str, list[str]]:
    """Return the rows of the table that begin with the index of a packet."""
    table = [words(line) for line in output.splitlines()]
    return {row[0]: row[1:] for row in table if row and row[0].replace("-", "").isdigit()}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a terminal, rich takes the width of its tables from this variable.
    monkeypatch.setenv("COLUMNS", "160")


# scheme show


def test_scheme_show_of_the_default() -> None:
    result = invoke("scheme", "show")
    assert result.exit_code == 0, result.output
    assert f"digest  {PaddingScheme.DEFAULT.digest}" in result.output
    assert "stop    8" in result.output
    assert rows(result.output) == {
        "0": ["30-30", "30", "30", "30", "padding", "in", "AUTH"],
        "1": ["100-400", "100", "249.5", "399"],
        "2": words("400-500, c, 500-1000, c, 500-1000, c, 500-1000, c, 500-1000 2,400 3,447.5 4,495"),
        "3": ["9-9,", "500-1000", "509", "758.5", "1,008"],
        **{str(index): ["500-1000", "500", "749.5", "999"] for index in range(4, 8)},
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0=30-30", "yes: servers can send this scheme"),
        ("0=1152-1153", "yes: servers can send this scheme"),
        (
            "0=30-2000",
            "no: the padding scheme's line 0 asks for up to 1999 bytes: legacy clients can have at most 1152",
        ),
    ],
)
def test_scheme_show_says_if_the_scheme_suits_legacy_clients(line: str, words: str) -> None:
    result = invoke("scheme", "show", "-", stdin=f"stop=2\n{line}\n".encode())
    assert result.exit_code == 0, result.output
    assert f"legacy  {words}" in result.output


def test_scheme_show_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scheme"
    file.write_bytes(b"stop=6\n0=7-7,1-2\n2=10-5,c\n3=c\n6=1-3\n9=4-4\n")
    result = invoke("scheme", "show", file)
    assert result.exit_code == 0, result.output
    unshaped = words("no line one write each, unshaped")
    assert rows(result.output) == {
        "0": words("7-7, 1-2 7 7 7 padding in AUTH; only the first size counts"),
        "1": unshaped,
        "2": words("5-10, c 5 7 9"),
        "3": words("c 0 0 0"),
        "4-5": unshaped,
        "6": words("1-3 1 1.5 2 never reached: stop=6"),
        "9": words("4-4 4 4 4 never reached: stop=6"),
    }


def test_scheme_show_of_the_standard_input() -> None:
    result = invoke("scheme", "show", "-", stdin=b"stop=1073741824\n0=c,1-2")
    assert result.exit_code == 0, result.output
    assert rows(result.output) == {
        "0": words("c, 1-2 0 0 0 no padding in AUTH: it begins with a check mark"),
        "1-1073741823": words("no line one write each, unshaped"),
    }


def test_line_0_is_always_used() -> None:
    scheme = PaddingScheme.parse(b"stop=0\n0=5-5\n1=6-6\n")
    assert [table.is_reached(scheme, index) for index in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (b"stop=8\n1=5-x\n", "line 2: "),
        (b"stop=8\n1=5-6\nno-such-key=1\n", "line 3: "),
        (b"0=30-30\n", "'stop' is missing"),
        (b"stop=8\n1=" + b"5-6," * 500_000 + b"7-8\n", "exceeds the limit of 65536"),
        (b"\xff\n", "line 1"),
        (b"", "Error: "),
    ],
)
def test_invalid_scheme(tmp_path: Path, block: bytes, complaint: str) -> None:
    file = tmp_path / "scheme"
    file.write_bytes(block)
    for result in (invoke("scheme", "show", file), invoke("scheme", "show", "-", stdin=block)):
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert complaint in result.output
        assert result.output.count("\n") == 1


def test_unreadable_scheme_file(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        result = invoke("scheme", "show", file)
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: cannot read {file}: ")
        assert result.output.count("\n") == 1


def test_tables_need_no_unicode() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "trioanytls", "scheme", "show"],
        capture_output=True,
        timeout=120,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
    )
    assert result.returncode == 0, result.stderr
    assert b"500-1000" in result.stdout


# scheme show --png

LONG = b"stop=9\n0=1-2\n1=" + b"c,5-60," * 400 + b"7-8\n2=5-6\n"
NOTHING = b"stop=3\n1=c\n5=1-9\n"
EXTREMES = b"stop=4\n0=0-65535\n1=0-0\n2=1-2,c,c,5-5,c\n3=65535-65535\n"


@pytest.mark.parametrize("block", [None, LONG, NOTHING, EXTREMES], ids=["default", "long", "nothing", "extremes"])
def test_png(tmp_path: Path, block: bytes | None) -> None:
    out = tmp_path / "sizes.png"
    source = [] if block is None else ["-"]
    result = invoke("scheme", "show", *source, "--png", out, stdin=block)
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"wrote {out}\n")
    with Image.open(out) as image:
        assert image.format == "PNG"
        image.load()
        assert image.width > PNG_SIZE[0]
        assert image.height > PNG_SIZE[1]
        # The picture has more colours than black and white.
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer samples, which take most of the time of a picture. `test_png` draws all."""
    monkeypatch.setattr("trioanytls.cli.scheme.plot._SAMPLES", 1000)


@pytest.mark.usefixtures("few_samples")
def test_png_has_the_bars_where_the_sizes_are(tmp_path: Path) -> None:
    images = []
    for size in (b"100-200", b"900-1000"):
        out = tmp_path / "sizes.png"
        block = b"stop=3\n1=" + size + b"\n2=1000-1000\n"
        assert invoke("scheme", "show", "-", "--png", out, stdin=block).exit_code == 0
        with Image.open(out) as image:
            images.append(image.convert("RGB"))
    # The colour of the first packet, which is leftmost in the left half.
    blue = (47, 102, 144)
    places = [
        next(x for x in range(image.width) if any(image.getpixel((x, y)) == blue for y in range(image.height)))
        for image in images
    ]
    assert places[0] < places[1]


@pytest.mark.usefixtures("few_samples")
def test_png_that_is_not_writable(tmp_path: Path) -> None:
    out = tmp_path / "none" / "sizes.png"
    result = invoke("scheme", "show", "--png", out)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith(f"Error: cannot write {out}: ")


def test_png_without_the_extra_plot(tmp_path: Path) -> None:
    out = tmp_path / "sizes.png"
    result = run_without(["matplotlib"], "scheme", "show", "--png", str(out))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "Error: --png needs matplotlib; install it with: python3 -m pip install 'trioanytls[plot]'\n"
    )
    assert not out.exists()


def test_table_without_the_extra_plot() -> None:
    result = run_without(["matplotlib"], "scheme", "show")
    assert result.returncode == 0
    assert PaddingScheme.DEFAULT.digest in result.stdout
