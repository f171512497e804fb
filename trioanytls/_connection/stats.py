"""The counters of a connection."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from trioanytls._protocol.traffic_shaper import Delivery


@frozen(kw_only=True)
class ConnectionStats:
    """The counters of a connection at one moment (`Connection.stats`).

    Frames are counted under the names of their types, STREAM frames under their flags: `"STREAM[DATA]"`.

    Attributes:
      frames_sent: number of frames by type. A frame that is sent in several writes counts once.
      frames_received: number of frames by type.
      data_bytes_sent: bytes that streams have sent, without framing.
      data_bytes_received: bytes that streams have received, without framing.
      padding_bytes_sent: bytes of PADDING frames, headers included.
      padding_bytes_received: bytes of PADDING frames, headers not included.
      bytes_sent: bytes passed to the transport.
      bytes_received: bytes received from the transport.
      open_streams: streams open now.
      streams_opened: streams opened so far.
      writes: writes made, each a TLS record of its own while the connection is shaped.
      deliveries: the first deliveries: the sizes that the padding scheme asked for, and those that were written.
    """

    frames_sent: Mapping[str, int]
    frames_received: Mapping[str, int]
    data_bytes_sent: int
    data_bytes_received: int
    padding_bytes_sent: int
    padding_bytes_received: int
    bytes_sent: int
    bytes_received: int
    open_streams: int
    streams_opened: int
    writes: int
    deliveries: tuple[Delivery, ...]
