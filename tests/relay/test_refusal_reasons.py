"""Reasons for refusals: without the extension `reset`, fetched on another stream, so that the refused stream carries no
extra byte.
"""

from __future__ import annotations

import pytest

import trioanytls
from trioanytls._protocol.extensions import Extension
from trioanytls.destination import Destination, encode
from trioanytls.relay import refusal_reasons
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.testing import memory_connection_pair

from ..helpers.refusals import refusal_of

#: Settings of a server without the extension `reset`.
MANUAL = trioanytls.Config(acknowledge="manual", extensions={"fin", "goaway", "window"})


async def refused(client: trioanytls.Connection, destination: Destination) -> trioanytls.Stream:
    stream = await client.open_stream()
    await stream.send_all(encode(destination))
    with pytest.raises(trioanytls.StreamRefused):
        await stream.wait_acknowledged()
    # A client that does not wait for STREAM_ACK receives only bytes of the destination.
    with pytest.raises(trioanytls.StreamRefused):
        await stream.receive_some()
    return stream


async def test_a_client_can_fetch_the_reason() -> None:
    async with memory_connection_pair(RelayHandler(AddressPolicy()), server_config=MANUAL) as (client, _):
        private = await refused(client, Destination("10.0.0.1", 80))
        nowhere = await refused(client, Destination("192.0.2.1", 0))
        assert await refusal_reasons.fetch_reason(nowhere) is ReplyCode.HOST_UNREACHABLE
        assert await refusal_reasons.fetch_reason(private) is ReplyCode.NOT_ALLOWED


async def test_reasons_of_other_connections_are_private() -> None:
    relay = RelayHandler(AddressPolicy())
    async with memory_connection_pair(relay, server_config=MANUAL) as (one, _):
        stream = await refused(one, Destination("10.0.0.1", 80))
        async with (
            memory_connection_pair(relay, server_config=MANUAL) as (other, _),
            await other.open_stream() as asking,
        ):
            await asking.send_all(encode(refusal_reasons.DESTINATION) + stream.stream_id.to_bytes(8))
            assert await asking.receive_some() == bytes([ReplyCode.GENERAL_FAILURE])


async def test_a_bounded_number_is_remembered() -> None:
    async with memory_connection_pair(RelayHandler(AddressPolicy()), server_config=MANUAL) as (client, _):
        streams = [await refused(client, Destination("10.0.0.1", 80)) for _ in range(refusal_reasons._KEPT + 1)]
        assert await refusal_reasons.fetch_reason(streams[0]) is ReplyCode.GENERAL_FAILURE
        assert await refusal_reasons.fetch_reason(streams[1]) is ReplyCode.NOT_ALLOWED


async def test_a_relay_without_reasons_means_the_usual_reason() -> None:
    async def refuse(stream: trioanytls.Stream) -> None:
        await stream.refuse()

    async with memory_connection_pair(refuse, server_config=MANUAL) as (client, _):
        stream = await client.open_stream()
        assert await refusal_reasons.fetch_reason(stream) is ReplyCode.CONNECTION_REFUSED


@pytest.mark.parametrize("extensions", [{"reset"}, {"fin", "goaway", "reset", "window"}])
async def test_a_refusal_with_a_code_is_not_kept(extensions: set[Extension]) -> None:
    config = trioanytls.Config(acknowledge="manual", extensions=extensions)
    offered = trioanytls.Config(extensions=extensions)
    relay = RelayHandler(AddressPolicy())
    async with memory_connection_pair(relay, client_config=offered, server_config=config) as (client, _):
        stream = await client.open_stream()
        await stream.send_all(encode(Destination("10.0.0.1", 80)))
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert (caught.value.code, caught.value.reason) == (
            trioanytls.StreamCode.NOT_ALLOWED,
            ReplyCode.NOT_ALLOWED.text,
        )
        assert await refusal_reasons.fetch_reason(stream) is ReplyCode.GENERAL_FAILURE
        # The client asks for nothing.
        opened = client.stats.streams_opened
        assert await refusal_of(stream) is ReplyCode.NOT_ALLOWED
        assert client.stats.streams_opened == opened
