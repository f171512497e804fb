"""The settings of the client, from its options and its configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen

from trioanytls import Config, ServerURI, WireFormat
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination
from trioanytls.relay import BypassRule

# The maximum number of streams per connection. The other programs' clients have one with the format "legacy".
_STREAMS: Final[Mapping[WireFormat, int]] = {"anytls1": 32, "legacy": 1}


@frozen
class Forwarding:
    """The value of `--forward` or `--forward-udp`.

    Attributes:
      local: the address to listen on.
      destination: the destination of its connections or datagrams.
    """

    local: ListenAddress
    destination: Destination

    @classmethod
    def parse(cls, text: str) -> Forwarding:
        """Parse `LOCAL=HOST:PORT`. For `LOCAL`, see `ListenAddress.parse_local`.

        Raises:
          ValueError: `text` has another form.
        """
        local, equals, destination = text.partition("=")
        if not equals:
            raise ValueError(f"invalid forward {text!a}: expected LOCAL=HOST:PORT")
        return cls(ListenAddress.parse_local(local), Destination.parse(destination))


@frozen(kw_only=True)
class ClientSettings:
    """All settings of the client."""

    server: ServerURI
    socks: tuple[ListenAddress, ...] = ()
    http: tuple[ListenAddress, ...] = ()
    mixed: tuple[ListenAddress, ...] = ()
    http_via: str | None = None
    forwards: tuple[Forwarding, ...] = ()
    udp_forwards: tuple[Forwarding, ...] = ()
    bypass: tuple[BypassRule, ...] = ()
    proxy_users: Mapping[str, str] | None = field(default=None, repr=False)
    state_dir: Path | None = None
    keeps_state: bool = True
    config: Config = Config()
    #: How long open streams may continue after SIGTERM, in seconds.
    drain_timeout: float = 10.0
    #: The maximum number of streams per connection. None: what suits the wire format.
    streams: int | None = None
    #: Whether a connection carries another stream after its first one.
    reuse: bool = True
    check: bool = True
    quiet: bool = False
    log: LogSettings = field(factory=LogSettings)

    @property
    def streams_per_connection(self) -> int:
        """The maximum number of streams per connection."""
        return self.streams or (_STREAMS[self.server.protocol] if self.reuse else 1)
