"""`trioanytls demo`: uploads of small trees and of the standard library, errors, and Ctrl-C."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import trioanytls
from trioanytls import Delivery, Mark
from trioanytls.cli import main
from trioanytls.cli.demo import python_files, report, upload

DEMO = [sys.executable, "-W", "error", "-X", "dev", "-m", "trioanytls", "demo", "--no-fetch"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX links, pipes, signals and terminals")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a small tree: two empty files, two larger ones, and files that the demo does not upload."""
    (tmp_path / "package").mkdir()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "empty.py").touch()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "small.py").write_bytes(b"pass\n")
    (tmp_path / "package" / "large.py").write_bytes(os.urandom(300_000))
    (tmp_path / "package" / "data.txt").write_bytes(b"no module")
    (tmp_path / "site-packages" / "installed.py").touch()
    return tmp_path


def demo(directory: Path) -> Result:
    return CliRunner().invoke(main.trioanytls, ["demo", "--no-fetch", "--directory", str(directory)])


def totals(output: str) -> dict[str, str]:
    """Return the first table: name -> number."""
    lines = [line.split() for line in output.splitlines()]
    return {words[0]: words[1] for words in lines if words and words[0].isalpha() and len(words) > 1}


async def answer_wrongly(stream: trioanytls.Stream) -> None:
    """Receive a file, and answer with a wrong digest if it has 5 bytes."""
    received = b""
    # The length may arrive in pieces.
    while len(received) < 8 or len(received) < 8 + int.from_bytes(received[:8], "big"):
        received += await stream.receive_some()
    data = received[8:]
    await stream.send_all(hashlib.sha256(b"other" if len(data) == 5 else data).digest())


async def answer_too_little(stream: trioanytls.Stream) -> None:
    await stream.send_all(b"too little")


async def fail(stream: trioanytls.Stream) -> None:
    raise RuntimeError("this handler fails")


async def leave(stream: trioanytls.Stream) -> None:
    await stream.connection.aclose()


def test_all_digests_match(tree: Path) -> None:
    result = demo(tree)
    assert result.exit_code == 0, result.output
    shown = totals(result.output)
    assert (shown["Files"], shown["Bytes"], shown["Streams"]) == ("4", "300,005", "4")
    assert int(shown["Frames"]) >= 4 * 2 + 2
    assert int(shown["Writes"]) >= 8
    assert "The first shaped packets" in result.output
    assert "Error" not in result.output
    assert "uploading: 4 of 4 files" in result.output


def test_mismatch(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upload.run(tree, answer_wrongly) == 1
    output = capsys.readouterr()
    small = Path("package", "small.py")
    assert output.err.endswith(f"Error: not uploaded intact: 1\n  {small}: the digest differs\n")
    assert totals(output.out)["Files"] == "3"


def test_short_answer(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upload.run(tree, answer_too_little) == 1
    error = capsys.readouterr().err
    assert "Error: not uploaded intact: 4\n" in error
    for name in ("empty.py", "__init__.py", "small.py", "large.py"):
        assert name in error


def test_handler_that_fails(tree: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert upload.run(tree, fail) == 1
    assert "Error: not uploaded intact: 4\n" in capsys.readouterr().err
    assert {record.name for record in caplog.records} == {"trioanytls.server"}


def test_connection_closed_by_the_server(tree: Path) -> None:
    with pytest.raises(click.ClickException) as info:
        upload.run(tree, leave)
    assert "\n" not in str(info.value)
    assert "the peer closed the connection" in str(info.value)
    assert info.value.exit_code == 1


@posix
def test_unreadable_files(tree: Path) -> None:
    (tree / "broken.py").symlink_to(tree / "nowhere")
    (tree / "package" / "directory.py").mkdir()
    os.mkfifo(tree / "pipe.py")
    result = demo(tree)
    assert result.exit_code == 0, result.output
    assert totals(result.output)["Files"] == "4"
    assert totals(result.output)["Streams"] == "4"
    assert result.output.endswith(
        "Could not be read: 2\n  broken.py: No such file or directory\n  pipe.py: not a regular file\n"
    )


def test_directory_without_files(tmp_path: Path) -> None:
    result = demo(tmp_path)
    assert result.exit_code == 1
    assert result.output == f"Error: no *.py files in {tmp_path}\n"


@posix
def test_no_readable_file(tmp_path: Path) -> None:
    (tmp_path / "broken.py").symlink_to(tmp_path / "nowhere")
    result = demo(tmp_path)
    assert result.exit_code == 1
    assert "broken.py: No such file" in result.output


def test_missing_directory(tmp_path: Path) -> None:
    result = demo(tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_file_names_are_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("[bold]red.py", "größe.py"):
        (tmp_path / name).write_bytes(b"12345")
    assert upload.run(tmp_path, answer_wrongly) == 1
    error = capsys.readouterr().err
    assert "  [bold]red.py: the digest differs\n" in error
    assert "  größe.py: the digest differs\n" in error


def test_find_the_standard_library() -> None:
    found = python_files.find(python_files.standard_library())
    assert not found.unreadable
    assert len(found.files) > 500
    assert len(found.files) == len(set(found.files))
    assert os.path.realpath(hashlib.__file__) in {os.path.realpath(path) for path in found.files}
    assert not [path for path in found.files if "site-packages" in path.parts]


def test_the_standard_library() -> None:
    """Upload the standard library, as `nox -s demo` does."""
    result = subprocess.run(DEMO, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = python_files.find(python_files.standard_library())
    shown = totals(result.stdout)
    assert int(shown["Streams"].replace(",", "")) == int(shown["Files"].replace(",", "")) == len(found.files)


@posix
def test_interrupt(tmp_path: Path) -> None:
    # More files than the demo can upload before the signal arrives.
    (tmp_path / "large.py").write_bytes(bytes(200_000))
    for number in range(3000):
        (tmp_path / f"{number}.py").symlink_to("large.py")
    command = [*DEMO, "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "uploading: 3,001 files\n"
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert error.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in error


@posix
def test_progress_bar_on_a_terminal(tree: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen([*DEMO, "--directory", tree], stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        output, _ = process.communicate(timeout=60)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # the end of the output on Linux
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert totals(output)["Files"] == "4"
    assert b"4/4" in shown
    assert b"uploading: " not in shown


# The table of shaped packets

C = Mark.CHECK


@pytest.mark.parametrize(
    ("delivery", "asked", "written"),
    [
        (Delivery(0, (30,), (142,)), "30 of padding", "142"),
        (Delivery(1, (259,), (259,)), "259", "259"),
        # The packet ends at the check mark.
        (Delivery(2, (400, C, 500, C, 600), (400,)), "400, c (500, c, 600)", "400"),
        (Delivery(2, (400, C, 500, C, 600), (400, 500)), "400, c, 500, c (600)", "400, 500"),
        (Delivery(2, (400, C, 500), (400, 500)), "400, c, 500", "400, 500"),
        (Delivery(2, (400, C), (400,)), "400, c", "400"),
        # A write of padding alone has an additional header.
        (Delivery(3, (9, 959), (9, 963)), "9, 959", "9, 963"),
        # More data than the sizes of the scheme.
        (Delivery(4, (500,), (500, 64000)), "500", "500, rest 64000"),
        (Delivery(5, (), (64000,)), "", "rest 64000"),
        # A size of 0 makes no write.
        (Delivery(6, (0, 5, C, 0, 7), (5,)), "0, 5, c, 0 (7)", "5"),
        (Delivery(6, (0,), (70,)), "0", "rest 70"),
    ],
)
def test_shaped_packets(delivery: Delivery, asked: str, written: str) -> None:
    assert report.asked(delivery) == asked
    assert report.written(delivery) == written
