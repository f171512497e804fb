"""The errors of the protocol. The errors that are also Trio's are in `_exceptions`."""

from __future__ import annotations

from typing import Any, Self, cast

from .close_codes import CloseCode
from .text import one_line

# More than `text.MAX_TEXT`: an error's text may quote a text of the peer.
_MAX_TEXT = 1024


class AnyTLSError(Exception):
    """The base class of all errors that trioanytls defines.

    Its text is one line of printable characters, even if a part of it comes from a peer. `args` has the original text.
    """

    def __str__(self) -> str:
        return one_line(super().__str__(), _MAX_TEXT)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the error with its attributes, no matter which arguments its `__init__` takes."""
        kind, args, *state = cast("tuple[Any, ...]", super().__reduce__())
        return _restore, (kind, args), *state


def _restore(kind: type[AnyTLSError], args: tuple[Any, ...]) -> AnyTLSError:
    # Without `__init__`: `args` differs from the arguments that `__init__` takes.
    return kind.__new__(kind, *args)


class ProtocolViolation(AnyTLSError):
    """The peer broke the protocol. The text names the frame and the rule.

    The text is printable ASCII and contains no payload and no secret: it is sent to the peer in an ALERT (spec:
    Connections / Authentication; protocol: 4).
    """

    #: The error code of the CLOSE frame for this error, and of `ConnectionClosed.code`.
    code = CloseCode.PROTOCOL_ERROR

    @classmethod
    def of(cls, frame: str, stream_id: int, rule: str) -> Self:
        """Return the error for one frame, with the frame's name, its stream, and the rule that it breaks."""
        return cls(f"{frame} on stream {stream_id}: {rule}")


class LimitExceeded(ProtocolViolation):
    """The peer exceeded a configured limit."""

    code = CloseCode.LIMIT_EXCEEDED


class VersionNotSupported(ProtocolViolation):
    """The two ends have no protocol version in common (spec: Version Negotiation)."""

    code = CloseCode.VERSION_NOT_SUPPORTED


class AuthenticationFailed(AnyTLSError):
    """The first data from a client was not an AUTH frame with a known password (spec: Authentication)."""


class NotSupported(AnyTLSError):
    """The peer, or the wire format, does not have what was asked for. Nothing was done."""


class DataBlockError(AnyTLSError, ValueError):
    """A data block breaks a rule of Appendix A or B.

    Attributes:
      line: the number of the offending line, from 1; 0 if the rule concerns the whole block.
      rule: the rule in words.
    """

    def __init__(self, line: int, rule: str) -> None:
        super().__init__(f"line {line}: {rule}" if line else rule)
        self.line = line
        self.rule = rule


class SchemeError(AnyTLSError, ValueError):
    """A padding scheme is invalid. The text names the line and the fault (protocol: 6)."""
