"""Refusing streams: one place that logs the reason, records it for the client, and sends the refusal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import trio

from trioanytls import Stream
from trioanytls.destination import DestinationError

from .logging import StreamLog
from .refusal_reasons import RefusalReasons
from .reply_codes import ReplyCode
from .udp_over_tcp import UOTError

# How long a client may take to send what a stream begins with, in seconds.
_REQUEST_TIMEOUT: Final = 10.0

_T = TypeVar("_T")


class Refusal(Exception):
    """The stream must be refused. The text is for the log, `reply` for the client."""

    def __init__(self, text: str, reply: ReplyCode = ReplyCode.GENERAL_FAILURE) -> None:
        super().__init__(text)
        self.reply = reply


@contextlib.asynccontextmanager
async def refusing(stream: Stream, log: StreamLog, reasons: RefusalReasons) -> AsyncIterator[None]:
    """Refuse the stream if the block raises `Refusal`."""
    try:
        yield
    except Refusal as refusal:
        log.info("refused: %s", refusal)
        reasons.record(stream, refusal.reply)
        await stream.refuse()


async def read_request(
    stream: Stream, log: StreamLog, read: Callable[[Stream], Awaitable[_T | None]], *, invalid: ReplyCode
) -> _T | None:
    """Read what a stream begins with, by `read`. Return None if the stream ends before that.

    Args:
      invalid: the reply to an invalid request.

    Raises:
      Refusal: the request is invalid, or not complete in time.
    """
    try:
        with trio.fail_after(_REQUEST_TIMEOUT):
            request = await read(stream)
    except trio.TooSlowError:
        raise Refusal(f"no destination received within {_REQUEST_TIMEOUT:g} s") from None
    except (DestinationError, UOTError) as error:
        raise Refusal(str(error), invalid) from error
    except trio.BrokenResourceError as error:
        log.debug("stream broke before the destination was received: %s", error)
        return None
    if request is None:
        log.debug("stream closed before the destination was received")
    return request
