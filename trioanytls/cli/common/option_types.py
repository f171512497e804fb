"""The types of options, which click parses and checks."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from attrs import frozen

from trioanytls import Extension, WireFormat
from trioanytls.destination import Destination
from trioanytls.relay import parse_network

# The host of a port alone.
_LOOPBACK: Final = "127.0.0.1"


@frozen
class ListenAddress:
    """An address to listen on.

    Attributes:
      host: a name or an IP address; None for all addresses of the machine.
      port: the port; 0 for one that the system chooses.
    """

    host: str | None
    port: int

    @property
    def is_everywhere(self) -> bool:
        """True if it means all addresses of the machine, or all of one family."""
        return self.host is None or (is_address(self.host) and ipaddress.ip_address(self.host).is_unspecified)

    def __str__(self) -> str:
        return f"*:{self.port}" if self.host is None else str(Destination(self.host, self.port))

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Parse `HOST:PORT`; `*:PORT` or `:PORT` for all addresses, `PORT` for 127.0.0.1.

        Raises:
          ValueError: `text` has another form.
        """
        if _is_number(text):
            text = f"{_LOOPBACK}:{text}"
        host, colon, port = text.rpartition(":")
        everywhere = bool(colon) and host in ("", "*")
        destination = Destination.parse(f"all:{port}" if everywhere else text, least_port=0)
        return cls(None if everywhere else destination.host, destination.port)

    @classmethod
    def parse_local(cls, text: str) -> ListenAddress:
        """Parse like `parse`, except that `:PORT` means 127.0.0.1: only an explicit `*:PORT` opens a proxy to others.

        Raises:
          ValueError: `text` has another form.
        """
        return cls.parse(_on_loopback(text))


@frozen
class PublicAddress:
    """The address that clients connect to.

    Attributes:
      host: a name or an IP address.
      port: the port; None for the one that the server listens on.
    """

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> PublicAddress:
        """Parse `HOST` or `HOST:PORT`.

        Raises:
          ValueError: `text` has another form.
        """
        if is_address(text):
            return cls(text)
        if ":" not in text or text.endswith("]"):
            return cls(Destination.parse(f"{text}:1").host)
        destination = Destination.parse(text)
        return cls(destination.host, destination.port)


def parse_extensions(text: str) -> tuple[Extension, ...]:
    """Parse the names of extensions, separated by commas; `none` for no extension.

    Raises:
      ValueError: a name is unknown.
    """
    if text == "none":
        return ()
    known: tuple[Extension, ...] = get_args(Extension)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown extension {name!a}: expected some of {', '.join(known)}; or none")
    return tuple(name for name in known if name in names)


# Not generic before click 8.4.
if TYPE_CHECKING:
    _ParamType = click.ParamType[object]
else:
    _ParamType = click.ParamType


class Parsed(_ParamType):
    """A type whose values are parsed by a function. The message of its ValueError is shown to the user."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """See `click.ParamType`."""
        # click may pass a value that is converted already.
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Port(Parsed):
    """A `Parsed` that can also be a port number in the configuration file."""


#: A `ListenAddress`.
LISTEN = _Port("HOST:PORT", ListenAddress.parse)
#: A `ListenAddress` of the client; see `ListenAddress.parse_local`.
LISTEN_LOCAL = _Port("HOST:PORT", ListenAddress.parse_local)
#: A `PublicAddress`.
PUBLIC = Parsed("HOST[:PORT]", PublicAddress.parse)
#: A `Destination`; a port alone means 127.0.0.1.
SERVICE = _Port("HOST:PORT", lambda text: Destination.parse(_on_loopback(text)))
#: A wire format; see `trioanytls.open_connection`.
PROTOCOL = click.Choice(get_args(WireFormat))
#: A tuple of extensions.
EXTENSIONS = Parsed("NAMES", parse_extensions)
#: A network; see `address_policy`.
NETWORK = Parsed("CIDR", parse_network)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def takes_number(kind: object) -> bool:
    """Return whether an option of this type can be a port alone, which is a number in a configuration file."""
    return isinstance(kind, _Port)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _on_loopback(text: str) -> str:
    port = text.removeprefix(":")
    return f"{_LOOPBACK}:{port}" if _is_number(port) else text
