"""What a connection counts."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from trioanytls._protocol.traffic_shaper import Delivery


@frozen(kw_only=True)
class ConnectionStats:
    """The counters of a connection at one moment (`Connection.stats`).

    Frames are counted under the names of their types, STREAM frames under their flags: `"STREAM[DATA]"`.

    Attributes:
      frames_sent: number of frames by type. One that is sent in several Writes counts once.
      frames_received: number of frames by type.
      data_bytes_sent: bytes that streams have sent, without framing.
      data_bytes_received: bytes that came for streams, without framing.
      padding_bytes_sent: bytes of PADDING frames, headers included.
      padding_bytes_received: bytes of PADDING frames, headers not included.
      bytes_sent: bytes handed to the transport.
      bytes_received: bytes that came from it.
      open_streams: streams open now.
      streams_opened: streams opened so far.
      writes: Writes made, which is TLS records while the connection is shaped.
      deliveries: the first delivers: what the padding scheme asked for, and what went out.
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
