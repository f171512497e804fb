"""Connecting to a destination: resolve its name once, check its addresses, and connect to one of them.

The name is not resolved again between the check and the connection, since it may resolve to another address by then
(DNS rebinding).
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio
from attrs import define, field, frozen

from trioanytls import Connection, StreamCode
from trioanytls.destination import Destination, encode_host

from .address_policy import AddressPolicy, IPAddress
from .lookups import Lookups, TooManyLookups
from .own_addresses import OwnAddresses
from .reply_codes import ReplyCode
from .tcp_keepalive import keep_alive

# The head start of an address before the next one is tried concurrently, in seconds (RFC 8305, section 5).
_ATTEMPT_DELAY: Final = 0.25
# How many addresses of a name are tried. The owner of a name can give it any number.
_MOST_ADDRESSES: Final = 16
# How many names are resolved at the same time without `Lookups`, which divides threads among users.
_MOST_THREADS: Final = 32
_limiter: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("trioanytls.relay lookups")

_Found = Sequence[tuple[Any, ...]]


class DialError(Exception):
    """The destination cannot be connected to. The text is the reason, and `reply` and `code` its codes."""

    def __init__(
        self, text: str, reply: ReplyCode = ReplyCode.HOST_UNREACHABLE, code: StreamCode | None = None
    ) -> None:
        super().__init__(text)
        self.reply = reply
        self.code: StreamCode = reply.stream_code if code is None else code


class NotAllowed(DialError):
    """The policy forbids the destination."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ReplyCode.NOT_ALLOWED)


class Busy(DialError):
    """The relay does not try at present: the client has too many lookups waiting, or the system lacks resources."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ReplyCode.GENERAL_FAILURE, StreamCode.LIMIT)


@frozen
class Resolved:
    """One address of a destination, in the form that sockets need."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def address(self) -> IPAddress:
        """The IP address alone."""
        return ipaddress.ip_address(self.sockaddr[0])


@define(eq=False)
class DestinationDialer:
    """Resolves names and connects for the streams of one relay.

    Attributes:
      policy: which addresses may be connected to.
      lookups: the running and waiting lookups of all users of the relay.
      own: the addresses of the server itself.
    """

    policy: AddressPolicy
    lookups: Lookups = field(factory=Lookups)
    own: OwnAddresses = field(factory=OwnAddresses)

    async def dial(self, destination: Destination, connection: Connection) -> trio.SocketStream:
        """Connect to a destination for a client's connection, if the policy allows it.

        Raises:
          NotAllowed: the policy allows none of its addresses.
          DialError: it has no address, or none of them accepts.
        """
        if not destination.port:
            raise DialError("port 0 is invalid")
        return await connect(self.permitted(await self.resolve(destination, connection), connection))

    async def resolve(self, destination: Destination, connection: Connection) -> list[Resolved]:
        """Resolve a destination to its addresses, in the order in which they should be tried.

        Raises:
          Busy: too many names of the same client wait to be resolved.
          DialError: the destination has no address.
        """
        return await resolve(destination, functools.partial(self.lookups.run, connection))

    def permitted(self, found: Sequence[Resolved], connection: Connection) -> list[Resolved]:
        """Filter the addresses by the policy.

        Raises:
          NotAllowed: none of them is allowed.
          Busy: the system cannot tell whether they are the server's own.
        """
        self.own.note(connection.local_address)
        try:
            refusals = [self.policy.refusal(target.address, self.own) for target in found]
        except OSError as error:
            raise Busy(f"cannot check the addresses: {_describe(error)}") from error
        allowed = [target for target, refusal in zip(found, refusals, strict=True) if refusal is None]
        if not allowed:
            raise NotAllowed("; ".join(f"{target.address} {why}" for target, why in zip(found, refusals, strict=True)))
        return allowed


async def _run_in_thread(function: Callable[..., _Found], *args: object) -> _Found:
    # A separate limiter, so that slow lookups do not use up Trio's threads.
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MOST_THREADS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(function, *args, limiter=limiter, abandon_on_cancel=True)


async def resolve(destination: Destination, run: Callable[..., Awaitable[_Found]] = _run_in_thread) -> list[Resolved]:
    """Resolve a destination to its addresses, in the order in which they should be tried.

    Args:
      run: calls a blocking function in a thread.

    Raises:
      Busy: no thread is available.
      DialError: the destination has no address.
    """
    try:
        found = await _look_up(destination, run)
    except socket.gaierror as error:
        raise DialError(f"the name cannot be resolved: {error.strerror}") from error
    # An invalid name fails with other errors, before any lookup.
    except (OSError, ValueError) as error:
        raise DialError(f"the name cannot be resolved: {error}") from error
    # Python raises RuntimeError if the system cannot start a thread.
    except (TooManyLookups, RuntimeError) as error:
        raise Busy(f"the name was not resolved: {error}") from error
    targets = dict.fromkeys(Resolved(family, sockaddr) for family, _, _, _, sockaddr in found)
    if not targets:
        raise DialError("the name has no address")
    return _interleave_families(list(targets))[:_MOST_ADDRESSES]


async def _look_up(destination: Destination, run: Callable[..., Awaitable[_Found]]) -> _Found:
    await trio.lowlevel.checkpoint()
    host = destination.host
    try:
        # This does not block for an address.
        return _get_addresses(host, destination.port, _NUMERIC)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
    # Bytes, since Python would encode a string with its older IDNA.
    return await run(_get_addresses, encode_host(host).encode("ascii"), destination.port)


def _get_addresses(host: str | bytes, port: int, flags: int = 0) -> _Found:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)


_NUMERIC: Final = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def _interleave_families(targets: list[Resolved]) -> list[Resolved]:
    """Alternate between the families, beginning with that of the first address (RFC 8305, section 4).

    A family that does not work at all must not delay the other one.
    """
    preferred = [target for target in targets if target.family == targets[0].family]
    others = [target for target in targets if target.family != targets[0].family]
    pairs = itertools.zip_longest(preferred, others)
    return [target for pair in pairs for target in pair if target is not None]


async def connect(targets: Sequence[Resolved]) -> trio.SocketStream:
    """Connect to the first address that accepts. Each address gets a head start before the next one is tried.

    Raises:
      DialError: no address accepts.
    """
    race = _HappyEyeballs()
    try:
        if len(targets) == 1:
            await race.attempt(targets[0])
        else:
            await race.run(targets)
    except BaseException:
        if race.winner is not None:
            race.winner.close()
        raise
    if race.winner is None:
        raise DialError("; ".join(race.failures), race.reply)
    stream = trio.SocketStream(race.winner)
    keep_alive(stream)
    return stream


_REPLIES: Final = {
    errno.ECONNREFUSED: ReplyCode.CONNECTION_REFUSED,
    errno.ENETUNREACH: ReplyCode.NETWORK_UNREACHABLE,
    errno.ETIMEDOUT: ReplyCode.TIMED_OUT,
}


class _HappyEyeballs:
    """The concurrent attempts of `connect`."""

    def __init__(self) -> None:
        self.winner: trio.socket.SocketType | None = None
        self.failures: list[str] = []
        # The reason of the first failure, which is that of the preferred address.
        self.reply = ReplyCode.HOST_UNREACHABLE

    async def run(self, targets: Sequence[Resolved]) -> None:
        """Make all attempts, until one succeeds."""

        async def run_one(target: Resolved, failed: trio.Event) -> None:
            if await self.attempt(target):
                nursery.cancel_scope.cancel()
            else:
                failed.set()

        async with trio.open_nursery() as nursery:
            for target in targets:
                failed = trio.Event()
                nursery.start_soon(run_one, target, failed)
                with trio.move_on_after(_ATTEMPT_DELAY):
                    await failed.wait()

    async def attempt(self, target: Resolved) -> bool:
        """Connect to an address. Return whether it accepted."""
        try:
            runner = await _connect(target)
        except OSError as error:
            if not self.failures:
                self.reply = _REPLIES.get(error.errno or 0, ReplyCode.HOST_UNREACHABLE)
            self.failures.append(f"{target.address}: {_describe(error)}")
            return False
        if self.winner is None:
            self.winner = runner
        else:
            runner.close()
        return True


async def _connect(target: Resolved) -> trio.socket.SocketType:
    one = trio.socket.socket(target.family, socket.SOCK_STREAM)
    try:
        await one.connect(target.sockaddr)
    except BaseException:
        one.close()
        raise
    return one


def _describe(error: OSError) -> str:
    """Return the text of an error without its number, and without the address that Trio adds."""
    return os.strerror(error.errno) if error.errno is not None else str(error)
