"""What a relay says of one stream."""

from __future__ import annotations

import logging
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
        about = "".join((f", {peer}" if peer else "", f", user {connection.user!r}" if connection.user else ""))
        self._who = f"{connection.connection_id}{about}, stream {stream.stream_id}"

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.LoggerAdapter`. All that is logged comes by here."""
        if self.isEnabledFor(level):
            kwargs["extra"] = self._fields
            # It was said by whoever called this.
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            # Among the arguments: a percent sign in it is only that.
            text = f"connection %s: {msg}"
            self.logger.log(level, text, self._who, *args, **kwargs)
