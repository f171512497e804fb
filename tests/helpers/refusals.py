"""Why a relay refuses a stream, as its client finds it out."""

from __future__ import annotations

import pytest

import trioanytls
from trioanytls.relay import upstream
from trioanytls.relay.reply_codes import ReplyCode


async def refusal_of(stream: trioanytls.Stream) -> ReplyCode:
    """Wait until the relay refuses a stream, and return the reply to the application."""
    with pytest.raises(trioanytls.StreamRefused) as caught:
        await stream.wait_acknowledged()
    return (await upstream._explain(stream, caught.value)).reply
