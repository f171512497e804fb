"""The group of all commands."""

from __future__ import annotations

import click

from trioanytls import __version__
from trioanytls.cli.bench.options import bench
from trioanytls.cli.client.options import client
from trioanytls.cli.demo.options import demo
from trioanytls.cli.scheme.options import scheme
from trioanytls.cli.server.options import server


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def trioanytls() -> None:
    """ANYTLS: many independent byte streams over one TLS connection."""


for _command in (bench, client, demo, scheme, server):
    trioanytls.add_command(_command)
