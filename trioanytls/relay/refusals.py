"""Refusing streams: one place that logs the reason, records it for the client, and sends the refusal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import trio

from trioanytls import Stream, StreamCode
from trioanytls.destination import DestinationError

from .logging import StreamLog
from .refusal_reasons import RefusalReasons, knows_reasons
from .reply_codes import ReplyCode, text_of_code
from .udp_over_tcp import UOTError

#: How long a client may take to send what a stream begins with, in seconds.
REQUEST_TIMEOUT: Final = 10.0

_T = TypeVar("_T")


class Refusal(Exception):
    """The stream must be refused. The text is for the log, `reply` for the client.

    Attributes:
      reply: the reason. The client gets its text, if the wire format has a place for it.
      code: the same for clients with the extension `reset`.
      has_request: whether the client has sent a complete request. Otherwise it expects no text: the programs that speak
        the legacy format get none.
    """

    def __init__(
        self,
        text: str,
        reply: ReplyCode = ReplyCode.GENERAL_FAILURE,
        *,
        code: StreamCode | None = None,
        has_request: bool = True,
    ) -> None:
        super().__init__(text)
        self.reply = reply
        self.code: StreamCode = reply.stream_code if code is None else code
        self.has_request = has_request


@contextlib.asynccontextmanager
async def refusing(stream: Stream, log: StreamLog, reasons: RefusalReasons) -> AsyncIterator[None]:
    """Refuse the stream if the block raises `Refusal`, or abort it if it was acknowledged before."""
    try:
        yield
    except Refusal as refusal:
        if stream.is_acknowledged:
            log.info("closed after it was acknowledged: %s", refusal)
            await stream.reset(refusal.code, text_of_code(refusal.code))
            return
        log.info("refused: %s", refusal)
        text = refusal.reply.text
        if knows_reasons(stream):
            # The reply may say less than the code.
            text = text if refusal.code is refusal.reply.stream_code else text_of_code(refusal.code)
        else:
            reasons.record(stream, refusal.reply)
        await stream.refuse(refusal.code, text if refusal.has_request else "")


async def read_request(
    stream: Stream,
    log: StreamLog,
    read: Callable[[Stream], Awaitable[_T | None]],
    *,
    invalid: ReplyCode,
    timeout: float = REQUEST_TIMEOUT,  # noqa: ASYNC109 - its expiry is a refusal
) -> _T | None:
    """Read what a stream begins with, by `read`. Return None if the stream ends before that.

    Args:
      invalid: the reply to an invalid request.
      timeout: how long the client may take, in seconds.

    Raises:
      Refusal: the request is invalid, or not complete in time.
    """
    try:
        with trio.fail_after(timeout):
            request = await read(stream)
    except trio.TooSlowError:
        raise Refusal(f"no destination received within {timeout:g} s", has_request=False) from None
    except (DestinationError, UOTError) as error:
        raise Refusal(str(error), invalid, has_request=False) from error
    except trio.BrokenResourceError as error:
        log.debug("stream broke before the destination was received: %s", error)
        return None
    if request is None:
        log.debug("stream closed before the destination was received")
    return request
