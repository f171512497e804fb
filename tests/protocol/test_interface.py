"""The interface that a connection expects of a wire format, and its events."""

from __future__ import annotations

import pytest

from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.events import Event
from trioanytls._protocol.interface import ClientWireProtocol, FrameCounters, ServerWireProtocol, WireProtocol

from ..helpers.wire_bytes import client, server

# The type checker sees here that both ends implement the interface.
CLIENT: ClientWireProtocol = client()
SERVER: ServerWireProtocol = server()


def members(interface: type) -> set[str]:
    """Return the names of the methods, properties and attributes of an interface and of those it extends."""
    names: set[str] = set()
    for base in interface.__mro__:
        if base.__module__ == WireProtocol.__module__:
            names |= {name for name in {**vars(base), **base.__annotations__} if not name.startswith("_")}
    return names


@pytest.mark.parametrize(
    ("interface", "end"),
    [
        (ClientWireProtocol, CLIENT),
        (ServerWireProtocol, SERVER),
        (FrameCounters, CLIENT.decoder),
        (FrameCounters, SERVER.decoder),
    ],
)
def test_both_ends_have_every_member_of_the_interface(interface: type, end: object) -> None:
    names = members(interface)
    assert len(names) >= 3
    assert [name for name in sorted(names) if not hasattr(end, name)] == []


def test_an_event_of_data_has_the_value_of_its_frame() -> None:
    """Frames of data are passed on as the decoder yields them: no call and no copy for each."""
    assert int(Event.DATA) == int(FrameType.STREAM_DATA)


def test_no_other_event_has_the_value_of_a_frame() -> None:
    assert [event for event in Event if event in [*FrameType]] == [Event.DATA]
