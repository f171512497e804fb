"""`trioanytls demo`: the command. `upload` and `fetch` have its implementation, and are imported only if it runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from trioanytls.cli.common.logging import LogSettings


@click.command()
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Upload the *.py files of this directory instead of the standard library.",
)
@click.option(
    "--fetch/--no-fetch", default=True, show_default=True, help="Also fetch files through the relay, 420 MB in total."
)
def demo(directory: Path | None, fetch: bool) -> None:
    """Upload and fetch files on this machine.

    Start a server and a client. Upload every *.py file of Python's standard library over its own stream, 100 files at a
    time, and compare the SHA-256 that the server's handler returns.

    Then fetch a file of 200 MB and 200 small ones from a web server on this machine, with curl if it is installed,
    through SOCKS5 and through the HTTP proxy, and compare the digests. The exit code is 0 if all digests match.
    """
    from . import fetch as _fetch
    from . import upload

    LogSettings(logging.WARNING).set_up()
    sys.exit(upload.run(directory, sizes=_fetch.Sizes() if fetch else None))
