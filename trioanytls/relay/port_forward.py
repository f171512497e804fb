"""Forwarding a local TCP port to one destination."""

from __future__ import annotations

import logging

import trio
from attrs import frozen

from trioanytls import reset_stream
from trioanytls.destination import Destination

from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")


@frozen
class PortForward:
    """Serves the connections of a port, all to one destination.

    Attributes:
      upstream: opens the streams.
      destination: the destination of all connections.
    """

    upstream: Upstream
    destination: Destination

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one connection; see `front_end`."""
        async with near:
            try:
                far = await self.upstream.open(self.destination)
            except Unreachable as error:
                _log.info("forward to %s: %s", self.destination, error)
                # An end would look like an empty answer.
                await reset_stream(near)
                return
            async with far:
                await self.upstream.relay(near, far)
