"""Acknowledging a stream in time: clients of the legacy format do not wait for as long as a connection may take.

anytls-go, sing-box and mihomo close a session with all its streams if a stream gets no SYNACK for 3 seconds. So the
relay acknowledges a stream before that, even if its destination has not answered. If the destination then fails, the
stream ends without a reason.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Final

import trio

from trioanytls import Stream

#: How long the destination may take before a stream of the legacy format is acknowledged anyway, in seconds.
ACKNOWLEDGE_DELAY: Final = 2.0


@contextlib.asynccontextmanager
async def acknowledged_late(stream: Stream, delay: float) -> AsyncIterator[None]:
    """Acknowledge a stream of the legacy format if the block takes longer than `delay` seconds.

    A stream of another format is left alone: its client waits.
    """
    if stream.connection.protocol != "legacy" or delay == math.inf:
        yield
        return
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_acknowledge, stream, delay)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _acknowledge(stream: Stream, delay: float) -> None:
    await trio.sleep(delay)
    # The client may have closed the stream.
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.acknowledge()
