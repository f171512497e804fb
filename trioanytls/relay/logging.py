"""The log of a relayed stream."""

from __future__ import annotations

import functools
import logging
from typing import Any

from trioanytls import Stream
from trioanytls.destination import Destination

_log = logging.getLogger("trioanytls.relay")


class StreamLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for records about one stream, with the same fields as the library's records."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(_log)
        self._stream = stream

    @functools.cached_property
    def _fields(self) -> dict[str, object]:
        connection = self._stream.connection
        peer = None if connection.peer_address is None else str(Destination(*connection.peer_address))
        return {"connection": connection.connection_id, "peer": peer, "user": connection.user}

    @functools.cached_property
    def _subject(self) -> str:
        # Most streams have no record at the usual level.
        peer, user = self._fields["peer"], self._fields["user"]
        about = "".join((f", {peer}" if peer else "", f", user {user!r}" if user else ""))
        return f"{self._fields['connection']}{about}, stream {self._stream.stream_id}"

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.LoggerAdapter`. All other methods call this one."""
        if self.isEnabledFor(level):
            kwargs["extra"] = self._fields
            # The record names the caller's line, not this one.
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            # The stream's identity is passed as an argument, so that '%' in it is harmless.
            text = f"connection %s: {msg}"
            self.logger.log(level, text, self._subject, *args, **kwargs)
