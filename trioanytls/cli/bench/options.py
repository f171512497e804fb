"""`trioanytls bench`: the command. `measure` has its implementation, and is imported only if the command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from trioanytls import WireFormat
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.server_uri import read_server_uri, server_options


@click.command()
@server_options(envvar="TRIOANYTLS_SERVER", help_text="The server's anytls:// URI, see `client`.")
@click.option("--quick", is_flag=True, help="Take 3 seconds instead of 20.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with times in seconds and rates in bytes per second."
)
def bench(
    server: str | None, server_file: Path | None, protocol: WireFormat | None, quick: bool, as_json: bool
) -> None:
    """Measure latency and throughput to a server.

    Without a server, the command starts one in its own process. Its figures are a lower bound for this machine, since
    client and server share a processor. The wire format is then anytls1, or that of --protocol.
    """
    from . import measure

    LogSettings(logging.WARNING).set_up()
    uri = None if server is None and server_file is None else read_server_uri(server, server_file, protocol)
    sys.exit(measure.run(uri, 3.0 if quick else 20.0, protocol=protocol or "anytls1", as_json=as_json))
