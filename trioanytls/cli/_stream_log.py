"""What a relay says of one stream."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from trioanytls import Stream
from trioanytls.destination import Destination

_log = logging.getLogger("trioanytls.relay")


class StreamLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are about one stream, with the fields that those of the library have."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(_log)
        connection = stream.connection
        peer = None if connection.peer_address is None else str(Destination(*connection.peer_address))
        self._fields = {"connection": connection.connection_id, "peer": peer, "user": connection.user}
        who = "".join((f", {peer}" if peer else "", f", user {connection.user!r}" if connection.user else ""))
        self._prefix = f"connection {connection.connection_id}{who}, stream {stream.stream_id}: ".replace("%", "%%")

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`."""
        kwargs["extra"] = self._fields
        return self._prefix + msg, kwargs
