"""The errors that the protocol itself knows. Those that are also Trio's are in `_exceptions`."""

from __future__ import annotations

from typing import Any, Self, cast

from trioanytls._protocol.anytls1.frames import describe

from .close_codes import CloseCode
from .text import one_line

# A text of our own that quotes one of a peer's is longer than that.
_MAX_TEXT = 1024


class AnyTLSError(Exception):
    """The root of everything that trioanytls raises on its own account.

    Its text is one line of printable characters, even if a peer has written a part of it. `args` has the text as it was
    given.
    """

    def __str__(self) -> str:
        return one_line(super().__str__(), _MAX_TEXT)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the error with its attributes, whatever arguments its `__init__` takes."""
        kind, args, *state = cast("tuple[Any, ...]", super().__reduce__())
        return _restore, (kind, args), *state


def _restore(kind: type[AnyTLSError], args: tuple[Any, ...]) -> AnyTLSError:
    # Not by `__init__`: `args` is what that has made of its own arguments.
    return kind.__new__(kind, *args)


class ProtocolViolation(AnyTLSError):
    """The peer sent what the specification does not allow; the text says what, and by which rule.

    The text holds no payload and no secret, only printable ASCII: the server sends it to the peer in an ALERT
    (spec: Connections / Authentication; protocol: 4).
    """

    #: What a CLOSE frame for this error carries, and what `ConnectionClosed.code` says.
    code = CloseCode.PROTOCOL_ERROR

    @classmethod
    def of(cls, kind: int, stream_id: int, rule: str) -> Self:
        """The error of one frame: its text names the frame, its stream, and the rule that it breaks."""
        return cls(f"{describe(kind)} on stream {stream_id}: {rule}")


class LimitExceeded(ProtocolViolation):
    """The peer made something of ours grow beyond its configured bound."""

    code = CloseCode.LIMIT_EXCEEDED


class VersionNotSupported(ProtocolViolation):
    """The two ends have no protocol version in common (spec: Version Negotiation)."""

    code = CloseCode.VERSION_NOT_SUPPORTED


class AuthenticationFailed(AnyTLSError):
    """What a client sent first was not an AUTH frame with a known password (spec: Authentication)."""


class DataBlockError(AnyTLSError, ValueError):
    """A data block breaks a rule of Appendix A or B.

    Attributes:
      line: the number of the offending line, from 1; 0 where the rule is about the whole block.
      rule: the rule in words.
    """

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(f"line {line}: {rule}" if line else rule)
        self.line = line
        self.rule = rule


class SchemeError(AnyTLSError, ValueError):
    """A padding scheme cannot be used; the text names the line and says why (protocol: 6)."""
