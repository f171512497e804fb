"""The signals that control a server."""

import signal
import sys
from collections.abc import Callable

import pytest
import trio

from trioanytls.cli.server import signals
from trioanytls.cli.server.settings import ServerSettings

from .conftest import SERVER_CONFIG


class StuckServer:
    """A server that never stops by itself."""

    def __init__(self) -> None:
        self.drained: list[tuple[float, float]] = []

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - as in ServerControl
        self.drained.append((trio.current_time(), timeout))
        await trio.sleep_forever()


@pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX signals")
async def test_second_signal_kills_a_server_that_does_not_stop(
    autojump_clock: trio.testing.MockClock,
    collect_server: Callable[..., ServerSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed = []
    monkeypatch.setattr(signal, "signal", lambda number, what: killed.append(what))
    monkeypatch.setattr(signal, "raise_signal", lambda number: killed.append((trio.current_time(), number)))
    server = StuckServer()
    send, receive = trio.open_memory_channel(10)
    async with trio.open_nursery() as nursery:
        # The handler calls only `drain`.
        handler = signals.SignalHandler(collect_server(config=SERVER_CONFIG), server, nursery)  # type: ignore[arg-type]
        nursery.start_soon(handler.handle, receive)
        start = trio.current_time()
        await send.send(signal.SIGTERM)
        await trio.sleep(10)
        assert (server.drained, handler.exit_code) == ([(start, 30)], 0)
        await send.send(signal.SIGTERM)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert server.drained == [(start, 30), (start + 10, 0)]
    assert killed == [signal.SIG_DFL, (pytest.approx(start + 11), signal.SIGTERM)]
    assert handler.exit_code == 128 + signal.SIGTERM
