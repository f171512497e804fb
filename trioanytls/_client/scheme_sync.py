"""The padding scheme that a client starts its connections with (spec: Padding Scheme Update).

The server may send another scheme on any connection. It applies from the next connection on, and is saved in the
`SchemeStore`, from which the next start loads it.
"""

from __future__ import annotations

import logging

import trio

from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme

from .events import ClientEvents, notify
from .scheme_store import SchemeStore

_log = logging.getLogger("trioanytls.client")


class SchemeSync:
    """The current scheme for connections to one server, kept in step with the server and the store.

    Attributes:
      scheme: the scheme that the next connection starts with.
    """

    def __init__(
        self,
        key: str,
        scheme: PaddingScheme,
        store: SchemeStore | None,
        limits: ProtocolLimits,
        events: ClientEvents,
    ) -> None:
        self.scheme = scheme
        self._key = key
        self._store = store
        self._limits = limits
        self._events = events
        self._unsaved = False
        self._changed = trio.Event()
        self._saving = trio.Lock()

    async def load(self) -> None:
        """Replace the scheme by the one in the store, if there is one and it is usable."""
        if self._store is None:
            return
        try:
            scheme = await trio.to_thread.run_sync(self._store.load, self._key)
        except Exception:  # noqa: BLE001 - the store may raise anything: it is logged, and the client works without
            _log.exception("%s: cannot load the saved padding scheme", self._key)
            return
        if scheme is None:
            return
        if self._limits.find_excess(scheme) is not None or len(scheme.to_bytes()) > self._limits.max_scheme_size:
            # It would be refused from a server, too.
            _log.warning("%s: ignoring the saved padding scheme: it exceeds the limits in Config", self._key)
            return
        self.scheme = scheme

    def update(self, scheme: PaddingScheme) -> None:
        """Use the scheme that the server has sent, and have `run` save it."""
        if scheme != self.scheme:
            self.scheme = scheme
            self._unsaved = self._store is not None
            self._changed.set()
            notify(self._events, "on_scheme", scheme)

    async def run(self) -> None:
        """Save each new scheme. Runs until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.save()

    async def save(self) -> None:
        """Save the scheme, unless it is saved already."""
        # One save at a time, so that the latest scheme is the one that remains.
        async with self._saving:
            if not self._unsaved or self._store is None:
                return
            self._unsaved = False
            try:
                await trio.to_thread.run_sync(self._store.save, self._key, self.scheme)
            except Exception:  # noqa: BLE001 - the store may raise anything: it is logged, and the client works without
                _log.exception("%s: cannot save the padding scheme", self._key)
