"""The extensions of the protocol that both ends have to agree on (extensions: 1)."""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

#: The name of an extension in NEGO.
Extension = Literal["fin", "goaway", "reset", "window"]
#: All extensions, in the order in which NEGO lists them.
EXTENSIONS: Final[tuple[Extension, ...]] = ("fin", "goaway", "reset", "window")
NO_NAMES: Final[frozenset[Extension]] = frozenset()
#: The extensions with which a peer can tell an abort from an end.
TELLING_ABORTS: Final[frozenset[Extension]] = frozenset({"fin", "reset"})
#: The least and the most credit that a stream may begin with, in bytes.
MIN_WINDOW: Final = 16 * 1024
MAX_WINDOW: Final = 2**31 - 1
#: The most credit that a sender may have, in bytes.
MAX_CREDIT: Final = 2**62 - 1

#: The id in the first GOAWAY: the client opens no more streams, and those that it has opened are served.
MAX_LAST_SERVED: Final = 2**62 - 1


@frozen
class ExtensionOffer:
    """What one end offers or accepts.

    Attributes:
      names: the extensions.
      window: the credit that each stream begins with, in the direction towards this end, in bytes.
    """

    names: frozenset[Extension] = frozenset()
    window: int = MIN_WINDOW


#: No extension at all.
NO_EXTENSIONS: Final = ExtensionOffer()
