"""The counters of a server.

Each counter is written down once, as a field of a class here. The live counters, their sum over several servers, the
messages of workers, and the metrics for Prometheus all derive from these fields.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

from attrs import define, evolve, field, fields, frozen

from trioanytls._connection.stream_core import StreamEnd
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.formats import WIRE_FORMATS

_COUNTS = TypeVar("_COUNTS", bound=Mapping[str, int])

_KEY: Final = "counter"
_CLOSE_REASONS: Final = (*(code.name for code in CloseCode), "LOST", "UNAUTHENTICATED", "FALLBACK", "HANDSHAKE")


@frozen
class CounterInfo:
    """The description of one field of `ServerStats`.

    Attributes:
      help: one sentence, for people.
      momentary: whether the field describes this moment; all others only grow.
      label: for a field with one count for each key: the meaning of the keys.
      known: keys that a metric shows from the start, so that the first count of each appears as an increase.
      metric: the metric's name, if it differs from the field's.
      unit: the unit of what is counted, if there is one; the metric's name ends with it.
    """

    help: str
    momentary: bool = False
    label: str | None = None
    known: tuple[str, ...] = ()
    metric: str = ""
    unit: str = ""


def _gauge(help_: str, *, metric: str = "", default: int = 0) -> Any:
    return field(default=default, metadata={_KEY: CounterInfo(help_, momentary=True, metric=metric)})


def _count(help_: str, *, metric: str = "", unit: str = "") -> Any:
    return field(default=0, metadata={_KEY: CounterInfo(help_, metric=metric, unit=unit)})


def _counts(help_: str, *, label: str, known: tuple[str, ...]) -> Any:
    return field(factory=Counter, metadata={_KEY: CounterInfo(help_, label=label, known=known)})


@define(kw_only=True)
class _EventCounts(Generic[_COUNTS]):
    """The fields that count events, for the live counters and for their state at one moment."""

    connections_accepted: int = _count("Accepted TCP connections.")
    connections_refused: _COUNTS = _counts(
        "Connections closed on arrival, by the limit that was reached.",
        label="limit",
        known=("max_connections", "max_unauthenticated", "max_unauthenticated_per_address"),
    )
    connections_closed: _COUNTS = _counts(
        "Closed connections, by the code of the CLOSE frame, or LOST, UNAUTHENTICATED, FALLBACK or HANDSHAKE.",
        label="reason",
        known=_CLOSE_REASONS,
    )
    connections_drained: _COUNTS = _counts(
        "Connections that were drained: the client was told and has answered, or not, or it could not be told.",
        label="client",
        known=("answered", "unanswered", "untold"),
    )
    handshakes_failed: int = _count("TLS handshakes and PROXY protocol headers that failed or took too long.")
    authentications: int = _count("Successful authentications.")
    authentications_by_protocol: _COUNTS = _counts(
        "Successful authentications, by wire format.", label="protocol", known=WIRE_FORMATS
    )
    authentications_failed: int = _count("Failed authentications.")
    fallbacks: int = _count("Connections handed to the fallback.")
    fallbacks_refused: _COUNTS = _counts(
        "Connections closed instead of handed to the fallback, by the limit that was reached.",
        label="limit",
        known=("max_fallbacks", "max_fallbacks_per_address"),
    )
    fallbacks_displaced: int = _count("Idle fallback connections closed to make room for others.")
    violations: int = _count("Connections closed because the client broke the protocol or exceeded a limit of it.")
    streams_opened: int = _count("Opened streams, including refused ones.")
    streams_refused: _COUNTS = _counts(
        "Refused streams, by the limit that was reached, or drain while the server drains.",
        label="limit",
        known=("max_streams", "max_stream_rate", "drain"),
    )
    streams_timed_out: _COUNTS = _counts(
        "Streams closed by a timer: IDLE without traffic, STALLED if the handler did not read.",
        label="reason",
        known=(StreamEnd.IDLE.name, StreamEnd.STALLED.name),
    )
    handlers_failed: int = _count("Handlers that raised an exception other than those of a broken stream.")
    bytes_received: int = _count(
        "Bytes received from clients inside TLS, without fallbacks.", metric="received_bytes", unit="bytes"
    )
    bytes_sent: int = _count("Bytes sent to clients inside TLS, without fallbacks.", metric="sent_bytes", unit="bytes")


@define(kw_only=True)
class ServerCounters(_EventCounts[Counter[str]]):
    """The live counters of a server. The bytes of a connection are added when it ends."""


@frozen(kw_only=True)
class ServerStats(_EventCounts[Mapping[str, int]]):
    """The counters of a server at one moment (`ServerControl.snapshot`)."""

    draining: bool = _gauge("1 while the server drains and accepts no connections and streams.", default=False)
    connections: int = _gauge("Open connections, including fallbacks.")
    unauthenticated: int = _gauge(
        "Open connections that have not authenticated yet.", metric="unauthenticated_connections"
    )
    fallback_connections: int = _gauge("Open connections that are with the fallback.")
    streams: int = _gauge("Streams whose handlers are running.")

    def __add__(self, other: ServerStats) -> ServerStats:
        """Add the counters of two servers."""
        return evolve(self, **{name: _add(getattr(self, name), getattr(other, name)) for name in COUNTERS})


def freeze(counters: ServerCounters, **momentary: int) -> ServerStats:
    """Return the state of the live counters at this moment.

    Args:
      counters: the live counters.
      momentary: the values of the fields that describe this moment.
    """
    values = {attribute.name: getattr(counters, attribute.name) for attribute in fields(ServerCounters)}
    copies = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return ServerStats(**copies, **momentary)  # type: ignore[arg-type]  # one field, one type


def without_momentary(stats: ServerStats) -> ServerStats:
    """Return the counters of a server that has ended: those that only grow."""
    return evolve(stats, **{name: getattr(_ZERO, name) for name in COUNTERS if COUNTERS[name].momentary})


def _add(one: Any, other: Any) -> Any:
    if isinstance(one, bool):
        return one or other
    return one + other if isinstance(one, int) else dict(Counter(one) + Counter(other))


_ZERO: Final = ServerStats()
_INFO: Final[dict[str, CounterInfo]] = {one.name: one.metadata[_KEY] for one in fields(ServerStats)}
#: The fields of `ServerStats`, and what they mean: first those that describe the moment.
COUNTERS: Final = dict(sorted(_INFO.items(), key=lambda item: not item[1].momentary))

# The help texts are also the documentation of the fields.
_ATTRIBUTES: Final = [f"  {name}: {counter.help}" for name, counter in COUNTERS.items()]
ServerStats.__doc__ = "\n".join([inspect.cleandoc(ServerStats.__doc__ or ""), "", "Attributes:", *_ATTRIBUTES])
