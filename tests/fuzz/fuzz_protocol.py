"""Search for inputs that break the decoders and both ends of the protocol, guided by code coverage.

    python -m tests.fuzz.fuzz_protocol --seconds 600
    python -m tests.fuzz.fuzz_protocol --replay 0200...

It needs atheris, see `nox -s fuzz`. A replay does not. It ends with an error as soon as an input finds a fault, and
prints that input in hex for a replay.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

# An input that takes longer than this, in seconds, counts as an endless loop. More memory than this, in megabytes,
# counts as unbounded.
_TIMEOUT = 20
_MEMORY = 1024
_LARGEST_INPUT = 4096


def fuzz(seconds: int, directory: Path) -> None:
    """Run libFuzzer. This does not return: the exit code of the process tells whether a fault was found."""
    import atheris  # a replay works without it, too

    # Only modules imported in this block are instrumented.
    with atheris.instrument_imports(include=["trioanytls"]):
        from . import _inputs

    def one_input(data: bytes) -> None:
        try:
            _inputs.one_input(data)
        except BaseException:
            # Print the full input before libFuzzer prints anything: it is needed for a report.
            print(f"\ninput: {data.hex()}", file=sys.stderr)
            traceback.print_exc()
            raise

    corpus = directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(_inputs.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    dictionary = directory / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in _inputs.tokens()), encoding="ascii")
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_LARGEST_INPUT}",
        f"-timeout={_TIMEOUT}",
        f"-rss_limit_mb={_MEMORY}",
        f"-dict={dictionary}",
        f"-artifact_prefix={directory}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def replay(data: bytes) -> None:
    """Try one input again, and raise the error that it causes."""
    from . import _inputs

    _inputs.one_input(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the decoders and both ends of the protocol.")
    parser.add_argument("--seconds", type=int, default=600, help="how long to search (%(default)s)")
    parser.add_argument(
        "--directory", type=Path, help="the directory for inputs that reach new code (default: a new one)"
    )
    parser.add_argument("--replay", type=bytes.fromhex, metavar="HEX", help="try this input only")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        replay(arguments.replay)
        return
    # Not a temporary directory: libFuzzer exits without cleaning up.
    fuzz(arguments.seconds, arguments.directory or Path(tempfile.mkdtemp(prefix="trioanytls-fuzz-")))


if __name__ == "__main__":
    main()
