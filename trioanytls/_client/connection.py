"""The client's end of a connection: authenticating and opening streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trioanytls._config import Config
from trioanytls._connection.close_reason import CloseReason
from trioanytls._connection.connection import Connection
from trioanytls._connection.stream import Stream
from trioanytls._connection.stream_core import StreamCore
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.interface import ClientWireProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.traffic_shaper import Shaper
from trioanytls._transport.tls_stream import TLSStream


class ClientConnection(Connection):
    """The client's end. See `Connection` for its public names."""

    def __init__(
        self,
        transport: trio.abc.Stream,
        protocol: ClientWireProtocol,
        scheme: PaddingScheme,
        config: Config,
        *,
        peer_address: tuple[str, int] | None = None,
    ) -> None:
        super().__init__(
            transport,
            protocol,
            scheme,
            config,
            shaper=Shaper(scheme, protocol.padding_frames),
            peer_address=peer_address,
        )
        self._protocol = protocol

    def _start_io(self, nursery: trio.Nursery) -> None:
        # A cancellation from outside ends the block that uses the connection, and the end of the block closes it.
        nursery.cancel_scope.shield = True
        # So the nursery lasts until the connection has to be closed.
        self._close_scope = nursery.cancel_scope
        nursery.start_soon(self._reader.run, self._read_scope, self._failed)

    @property
    def _until_closing(self) -> Callable[[], Awaitable[None]]:
        # The writer needs no task of its own: it ends when the connection closes.
        return self._write

    def _cancel_io(self) -> None:
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def _before_close(self, reason: CloseReason) -> CloseReason:
        if self._nursery is not None and not isinstance(self._transport, TLSStream):
            self._nursery.start_soon(self._close_if_write_hangs)
        return super()._before_close(reason)

    async def _close_if_write_hangs(self) -> None:
        """Close a custom transport when the time to close is over. A write that shields itself ends by that alone.

        The task that closes the connection is the one that writes.
        """
        try:
            await self._writer_done.wait()
        except trio.Cancelled:
            await self._close_forcefully()
            raise

    async def open_stream(self) -> Stream:
        """See `Connection.open_stream`."""
        multiplexer, protocol = self._multiplexer, self._protocol
        multiplexer.check_open()
        # All waiting comes first: data that the application then sends at once goes out in one write with OPEN.
        await trio.lowlevel.checkpoint()
        multiplexer.check_open()
        if not multiplexer.send_queue.has_room:
            await multiplexer.send_queue.wait_room()
            multiplexer.check_open()
        if multiplexer.last_served is not None:
            multiplexer.send_queue.give_back()
            raise ConnectionClosed(CloseCode.SHUTTING_DOWN, "the server is shutting down and accepts no more streams")
        if protocol.exhausted:
            multiplexer.send_queue.give_back()
            raise ConnectionClosed(None, "all stream ids of the connection are used up")
        stream_id, frame = protocol.open_stream()
        now = trio.current_time()
        core = multiplexer.add_stream(stream_id, now, by_peer=False)
        if protocol.opens_alone and multiplexer.writer.has_begun:
            await self._send_opening(core, frame)
        else:
            core.queue_open(frame)
            windows = multiplexer.flow_control.windows
            if windows is not None and windows.has_learned:
                multiplexer.flow_control.grant_initially(core, now)
            # It runs in the next pass of the event loop. Data that the application sends before that joins OPEN.
            multiplexer.send_queue.wake_writer()
        return Stream(self, multiplexer, core)

    async def _send_opening(self, core: StreamCore, frame: bytes) -> None:
        """Send the frame that opens a stream. It need not wait for data that joins it.

        A server may have closed a connection that was idle. This is noticed here, before the stream has data that could
        be lost: a pool then uses another connection.
        """
        multiplexer = self._multiplexer
        core.queue_open(frame)
        multiplexer.writer.notify()
        try:
            await core.wait_on_wire()
        except BaseException:
            multiplexer.reset_stream(core)
            raise
        multiplexer.check_open()
        if multiplexer.writer.failed:
            raise multiplexer.closed_error()

    async def _send_first(self) -> None:
        await self._multiplexer.writer.send_first(self._protocol, self.config.initial_flush_delay)

    @property
    def _frames_sent_first(self) -> dict[str, int]:
        return dict.fromkeys(self._protocol.first_frame_names, 1) if self._multiplexer.writer.writes else {}
