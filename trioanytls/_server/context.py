"""The state that the connections of one server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from attrs import define, field

from trioanytls._checks import check_callable, check_type
from trioanytls._config import Config, check_config
from trioanytls._connection.stream import Stream
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.formats import check_formats
from trioanytls._protocol.interface import DEFAULT_FORMATS, WireFormat
from trioanytls._protocol.padding_scheme import PaddingScheme

from .admission import Admission
from .fallback import Fallback
from .stats import ServerCounters

#: A handler: it is passed each stream that a client opens.
Handler = Callable[[Stream], Awaitable[object]]


@define
class ServerContext:
    """The state that the connections of one server share.

    Attributes:
      handler: the handler of the streams that clients open.
      users: the users, which can be replaced.
      scheme: the padding scheme that clients must use.
      config: the settings.
      protocols: the wire formats that are accepted.
      fallback: the callable that takes over connections that are not ANYTLS, if there is one.
      counts: the live counters.
      admission: the limits on connections.
    """

    handler: Handler
    users: UserTable
    scheme: PaddingScheme
    config: Config
    fallback: Fallback | None = None
    protocols: Collection[WireFormat] = DEFAULT_FORMATS
    counts: ServerCounters = field(init=False, factory=ServerCounters)
    admission: Admission = field(init=False)

    @property
    def announces_drain(self) -> bool:
        """Whether clients that know the frame are told first that the server drains (extensions: 5)."""
        return "goaway" in self.config.extensions and "anytls1" in self.protocols

    def __attrs_post_init__(self) -> None:
        check_callable("handler", self.handler)
        check_type("padding_scheme", self.scheme, PaddingScheme)
        check_callable("fallback", self.fallback, optional=True)
        check_config(self.config, "server")
        check_formats(self.protocols)
        if "legacy" in self.protocols:
            self.scheme.check_for_legacy()
        if self.config.on_violation == "fallback" and self.fallback is None:
            raise ValueError('on_violation="fallback" requires a fallback')
        config = self.config
        self.admission = Admission(
            config.max_connections,
            config.max_unauthenticated,
            config.max_unauthenticated_per_address,
            config.max_fallbacks,
            config.max_fallbacks_per_address,
        )
