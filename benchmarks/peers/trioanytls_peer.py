"""trioanytls, by its public names, as an application uses it."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import ClassVar

import trio
from attrs import evolve

import trioanytls
from benchmarks.peer import HOST, SERVER_NAME, Handler, Session
from benchmarks.peer import Peer as AbstractPeer

PASSWORD = "benchmark"
CONFIG = trioanytls.Config(idle_timeout=math.inf, stream_idle_timeout=math.inf)
CROWD = 10_100
"""The streams that a crowded server allows. Its budget for received bytes has as much room for each as by default."""
CROWDED_BUFFER = CONFIG.connection_receive_buffer_size // CONFIG.max_streams * CROWD


class _Session(Session):
    def __init__(self, connection: trioanytls.Connection) -> None:
        self._connection = connection

    async def open_stream(self) -> trio.abc.Stream:
        return await self._connection.open_stream()


class Peer(AbstractPeer):
    """`trioanytls.serve` and `trioanytls.open_connection`."""

    wire_format: ClassVar[trioanytls.WireFormat] = "anytls1"
    config: ClassVar[trioanytls.Config] = CONFIG

    @cached_property
    def client_context(self) -> ssl.SSLContext:
        """The TLS context. It is made once, because it costs more than a handshake."""
        return self.credentials.client_context()

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        config = self.config
        if self.crowded:
            config = evolve(config, max_streams=CROWD, connection_receive_buffer_size=CROWDED_BUFFER)
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(
                    trioanytls.serve,
                    handler,
                    0,
                    host=HOST,
                    ssl_context=self.credentials.server_context(),
                    users={"benchmark": PASSWORD},
                    config=config,
                    protocols=(self.wire_format,),
                )
            )
            task_status.started(listeners[0].socket.getsockname()[1])

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with trioanytls.open_connection(
            HOST,
            port,
            password=PASSWORD,
            ssl_context=self.client_context,
            server_hostname=SERVER_NAME,
            config=self.config,
            protocol=self.wire_format,
        ) as connection:
            yield _Session(connection)
