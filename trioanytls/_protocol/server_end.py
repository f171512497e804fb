"""What the servers' ends of all wire formats do the same: they authenticate the client by its first bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .credentials import UserTable
from .end import ProtocolEnd
from .events import Event, EventTuple
from .exceptions import AuthenticationFailed
from .limits import ProtocolLimits
from .padding_scheme import PaddingScheme
from .state_machine import ConnectionState, ConnectionTable


class AuthenticationDecoder(Protocol):
    """A wire format's decoder of what a client authenticates with.

    Attributes:
      received: all bytes so far.
      password_hash: the hash; None until it has arrived.
      rest: the bytes after the authentication; None until it is complete.
    """

    received: bytearray
    password_hash: bytes | None
    rest: bytes | None

    def feed(self, data: bytes) -> None:
        """Decode the next bytes.

        Raises:
          AuthenticationFailed: the bytes are not the beginning of an authentication.
        """


class ServerEnd(ProtocolEnd):
    """A server's end of a connection. To be derived from before the format's `ProtocolEnd`.

    Attributes:
      user: the name of the authenticated user; None before that.
      peer_identifier: the name and version that the client's implementation gives itself; None before that.
    """

    def __init__(
        self,
        table: ConnectionTable,
        limits: ProtocolLimits,
        users: UserTable,
        scheme: PaddingScheme,
        authentication: AuthenticationDecoder,
    ) -> None:
        super().__init__(table, limits)
        self.user: str | None = None
        self.peer_identifier: str | None = None
        self._users = users
        self._scheme = scheme
        self._authentication: AuthenticationDecoder | None = authentication
        # The user with the hash received, before the authentication is complete.
        self._found: str | None = None

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """Consume `data` and yield its events. Exhaust the iterator before the next call.

        Raises:
          ProtocolViolation: the client broke the protocol.
          AuthenticationFailed: the client did not authenticate. `unconsumed` has all bytes that it sent.
        """
        authentication = self._authentication
        if authentication is None or self.state is not ConnectionState.WAIT_AUTH:
            return super().receive(data)
        return self._authenticate(authentication, data)

    def _authenticate(self, authentication: AuthenticationDecoder, data: bytes | memoryview) -> Iterator[EventTuple]:
        authentication.feed(bytes(data))
        if authentication.password_hash is None:
            return
        # Fail at an unknown hash without waiting for the padding (protocol: 4).
        if self._found is None:
            self._found = self._users.find(authentication.password_hash)
        if self._found is None:
            raise AuthenticationFailed("no user has this password")
        if authentication.rest is None:
            return
        self.user = self._found
        self.state = ConnectionState.WAIT_NEGO
        self._authentication = None
        self._authenticated()
        yield Event.AUTHENTICATED, 0, self.user
        yield from super().receive(authentication.rest)

    def _authenticated(self) -> None:
        """Act on a complete authentication."""

    @property
    def unconsumed(self) -> bytes:
        """All bytes received, until the client has authenticated. Then the bytes from the offending frame on."""
        received = self._authentication and self._authentication.received
        return bytes(received) if received else super().unconsumed

    @property
    def incomplete(self) -> bytes:
        """All bytes received, until the client has authenticated. Then the beginning of an incomplete frame."""
        return super().incomplete if self._authentication is None else bytes(self._authentication.received)
