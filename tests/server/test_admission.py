"""The limits on the number of connections, without a server."""

from __future__ import annotations

import functools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._server.admission import Admission, AdmissionSlot


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:C000:0201"], "192.0.2.2"),
        (["2001:db8::1", "2001:db8::", "2001:0DB8:0:0:1234:5678:9abc:def0"], "2001:db8:0:1::1"),
        (["fe80::1%eth0", "fe80::2%eth1", "fe80::3"], "fe80:0:0:1::1"),
        (["::1", "::2"], "::ffff:0.0.0.1"),
        # No address at all, as with other kinds of sockets.
        (["/run/socket", "/run/socket"], "/run/other"),
    ],
)
def test_one_address_is_one_of_ipv4_and_a_network_of_ipv6(same: list[str], other: str) -> None:
    admission = Admission(100, 100, len(same), 1, 1)
    slots = [entered(admission) for _ in range(len(same) + 2)]
    assert [slot.set_address(address) for slot, address in zip(slots, same, strict=False)] == [None] * len(same)
    for address in same:
        assert slots[-1].set_address(address) == "max_unauthenticated_per_address"
    assert slots[-1].set_address(other) is None
    slots[0].release()
    assert slots[-2].set_address(same[-1]) is None
    for slot in slots:
        slot.release()
    assert not admission.unauthenticated_by_network


def entered(admission: Admission) -> AdmissionSlot:
    slot = admission.enter()
    assert isinstance(slot, AdmissionSlot)
    return slot


def test_the_fallback_has_as_many_connections_as_it_may() -> None:
    admission = Admission(100, 100, 100, 2, 100)
    slots = [entered(admission) for _ in range(4)]
    refused = "max_fallbacks"
    assert [slot.fall_back(0, stays) for slot in slots] == [None, None, refused, refused]
    # The others have not authenticated.
    assert (admission.open, admission.unauthenticated, admission.fallbacks) == (4, 2, 2)
    slots[1].release()
    assert admission.fallbacks == 1
    # An authenticated connection may go to the fallback as well.
    slots[2].authenticated()
    assert [slot.fall_back(0, stays) for slot in slots[2:]] == [None, refused]
    for slot in slots * 2:
        slot.release()
    assert (admission.open, admission.unauthenticated, admission.fallbacks) == (0, 0, 0)


@attrs.define(eq=False)
class CountedSlot:
    """The history of an admission slot."""

    slot: AdmissionSlot
    address: str | None = None
    is_known: bool = False
    is_with_fallback: bool = False


ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]


@given(st.data())
def test_a_count_is_what_there_is_whatever_comes_and_goes(draws: st.DataObject) -> None:
    limits = draws.draw(st.tuples(*[st.integers(1, 4)] * 5))
    admission = Admission(*limits)
    there: list[CountedSlot] = []
    for _ in range(draws.draw(st.integers(1, 25))):
        action = draws.draw(st.sampled_from(["enter", "enter", "set_address", "authenticated", "fall_back", "release"]))
        if action == "enter":
            unauthenticated = sum(not one.is_known for one in there)
            refusal = "max_connections" if len(there) == limits[0] else None
            refusal = refusal or ("max_unauthenticated" if unauthenticated == limits[1] else None)
            slot = admission.enter()
            assert slot == refusal if refusal else isinstance(slot, AdmissionSlot)
            there += [CountedSlot(slot)] if isinstance(slot, AdmissionSlot) else []
        elif there:
            one = draws.draw(st.sampled_from(there))
            if action == "set_address" and one.address is None and not one.is_known:
                address = draws.draw(st.sampled_from(ADDRESSES))
                others = sum(other.address == address and not other.is_known for other in there)
                refusal = one.slot.set_address(address)
                assert refusal == ("max_unauthenticated_per_address" if others == limits[2] else None)
                one.address = None if refusal else address
            elif action == "authenticated":
                one.slot.authenticated()
                one.is_known = True
            elif action == "fall_back" and not one.is_with_fallback:
                with_fallback = [other for other in there if other.is_with_fallback]
                peers = [other for other in with_fallback if other.address == one.address is not None]
                limit = "max_fallbacks" if len(with_fallback) == limits[3] else None
                limit = "max_fallbacks_per_address" if len(peers) == limits[4] else limit
                # None of them was idle.
                assert one.slot.fall_back(0, stays) == limit
                one.is_known |= limit is None
                one.is_with_fallback = limit is None
            elif action == "release":
                one.slot.release()
                there.remove(one)
        assert admission.open == len(there)
        assert admission.unauthenticated == sum(not one.is_known for one in there)
        assert admission.fallbacks == sum(one.is_with_fallback for one in there)
        assert sum(admission.unauthenticated_by_network.values()) == sum(
            bool(one.address) and not one.is_known for one in there
        )
    for one in there:
        one.slot.release()
    assert (admission.open, admission.unauthenticated, admission.fallbacks) == (0, 0, 0)
    # The state that unauthenticated clients could make grow is empty again.
    assert not admission.unauthenticated_by_network
    assert not admission.fallbacks_by_network


def stays() -> None:
    raise AssertionError("no connection has to make room")


def fallen_back(admission: Admission, address: str, now: float, gone: list[str]) -> AdmissionSlot | str:
    """Admit one more connection to the fallback. Return the name of the limit if it is refused."""
    slot = entered(admission)
    assert slot.set_address(address) is None
    limit = slot.fall_back(now, lambda: gone.append(address))
    return limit or slot


def test_an_address_has_as_many_connections_with_the_fallback_as_it_may() -> None:
    admission = Admission(100, 100, 100, 100, 2)
    gone: list[str] = []
    for address in ("192.0.2.1", "::ffff:192.0.2.1"):
        assert isinstance(fallen_back(admission, address, 0, gone), AdmissionSlot)
    assert fallen_back(admission, "192.0.2.1", 1, gone) == "max_fallbacks_per_address"
    # In IPv6, a network counts as one address.
    for address in ("2001:db8::1", "2001:db8::2"):
        assert isinstance(fallen_back(admission, address, 1, gone), AdmissionSlot)
    assert fallen_back(admission, "2001:db8::3", 1, gone) == "max_fallbacks_per_address"
    assert not gone


def test_the_one_that_is_idle_for_longest_makes_room() -> None:
    admission = Admission(100, 100, 100, 100, 3)
    gone: list[str] = []
    slots = []
    for one in range(3):
        slot = entered(admission)
        assert slot.set_address("192.0.2.1") is None
        assert slot.fall_back(one, functools.partial(gone.append, str(one))) is None
        slots.append(slot)
    slots[0].touch(4)
    # Each has transferred bytes within the last 5 seconds.
    assert fallen_back(admission, "192.0.2.1", 5.9, gone) == "max_fallbacks_per_address"
    assert isinstance(fallen_back(admission, "192.0.2.1", 6, gone), AdmissionSlot)
    assert gone == ["1"]
    # Traffic of a connection that makes room does not count any more.
    slots[1].touch(7)
    assert isinstance(fallen_back(admission, "192.0.2.1", 8, gone), AdmissionSlot)
    assert gone == ["1", "2"]
    assert admission.fallbacks == 5
    for slot in slots * 2:
        slot.release()
    assert (admission.fallbacks, admission.making_room) == (2, 0)


def test_those_that_have_the_most_make_room_first() -> None:
    admission = Admission(100, 100, 100, 4, 100)
    gone: list[str] = []
    for now, address in enumerate(["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"]):
        assert isinstance(fallen_back(admission, address, now, gone), AdmissionSlot)
    assert fallen_back(admission, "192.0.2.4", 5, gone) == "max_fallbacks"
    for now in (10, 11):
        assert isinstance(fallen_back(admission, f"192.0.2.{now}", now, gone), AdmissionSlot)
    # Then the one that was idle for the longest time.
    assert gone == ["192.0.2.2", "192.0.2.1"]


def test_those_that_make_room_are_not_any_number() -> None:
    """Each has yet to close, which takes as long as allowed if the peer does not read."""
    admission = Admission(1000, 1000, 1000, 3, 3)
    gone: list[str] = []
    outcomes = [fallen_back(admission, "192.0.2.1", 10 * number, gone) for number in range(20)]
    assert sum(isinstance(outcome, AdmissionSlot) for outcome in outcomes) == 6
    assert len(gone) == 3
    assert outcomes[-1] == "max_fallbacks_per_address"
    for outcome in outcomes:
        if isinstance(outcome, AdmissionSlot):
            outcome.release()
    assert (admission.fallbacks, admission.making_room, admission.fallbacks_by_network) == (0, 0, {})
