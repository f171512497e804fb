"""What options are made of, read and checked by click."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import click
from attrs import frozen

from trioanytls.destination import Destination

from ._policy import parse_network


@frozen
class ListenAddress:
    """Where to listen.

    Attributes:
      host: a name or an address; None for all addresses of the machine.
      port: 0 for one that the system chooses.
    """

    host: str | None
    port: int

    @property
    def is_everywhere(self) -> bool:
        """Whether it is all addresses of the machine, or of one family."""
        return self.host is None or (is_address(self.host) and ipaddress.ip_address(self.host).is_unspecified)

    def __str__(self) -> str:
        return f"*:{self.port}" if self.host is None else str(Destination(self.host, self.port))

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read `HOST:PORT`; `*:PORT` or `:PORT` for all addresses.

        Raises:
          ValueError: it is something else.
        """
        host, colon, port = text.rpartition(":")
        everywhere = bool(colon) and host in ("", "*")
        destination = Destination.parse(f"all:{port}" if everywhere else text, least_port=0)
        return cls(None if everywhere else destination.host, destination.port)


@frozen
class PublicAddress:
    """What clients connect to.

    Attributes:
      host: a name or an address.
      port: None for the one that is listened on.
    """

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> PublicAddress:
        """Read `HOST`, or `HOST:PORT`.

        Raises:
          ValueError: it is something else.
        """
        if is_address(text):
            return cls(text)
        if ":" not in text or text.endswith("]"):
            return cls(Destination.parse(f"{text}:1").host)
        destination = Destination.parse(text)
        return cls(destination.host, destination.port)


class _Parsed(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.4
    """What a function makes of a text; its ValueError says what is wrong."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """See `click.ParamType`."""
        # What was converted may come again.
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


#: A `ListenAddress`.
LISTEN = _Parsed("HOST:PORT", ListenAddress.parse)
#: A `PublicAddress`.
PUBLIC = _Parsed("HOST[:PORT]", PublicAddress.parse)
#: A `Destination`.
HOST_PORT = _Parsed("HOST:PORT", Destination.parse)
#: A network, see `_policy`.
NETWORK = _Parsed("CIDR", parse_network)


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
