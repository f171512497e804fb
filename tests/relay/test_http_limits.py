"""The HTTP proxy between applications and destinations that are slow, endless, or gone; in memory."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls.destination import Destination
from trioanytls.relay import http_proxy
from trioanytls.relay.http_proxy import HTTPProxy
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.upstream import Unreachable

GET = b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST http://x/ HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello"
READ = http_proxy._READ


@define(eq=False)
class End(trio.abc.HalfCloseableStream):
    """A side that sends some data, and then sends forever, sends nothing, or ends.

    Attributes:
      first: the data that it sends first.
      then: the data that it sends repeatedly, as fast as it is received; None to end, b"" to send nothing.
      takes: how many bytes it accepts.
      received: the data that it has received.
      given: how many bytes were received from it.
      closed: whether it was closed.
    """

    first: bytes = b""
    then: bytes | None = b""
    takes: float = math.inf
    received: bytearray = field(init=False, factory=bytearray)
    given: int = field(init=False, default=0)
    ended: bool = field(init=False, default=False)
    closed: bool = field(init=False, default=False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        limit = max_bytes or READ
        data = self.first[:limit]
        self.first = self.first[limit:]
        if not data:
            if self.then is None:
                return b""
            if not self.then:
                await trio.sleep_forever()
            data = (self.then * (limit // len(self.then) + 1))[:limit]
        self.given += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # As sockets and streams do: available room is used at once.
        self.received += data
        await trio.lowlevel.checkpoint()
        if len(self.received) > self.takes:
            await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended = True

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Later(End):
    """An origin that answers after the request, since an earlier answer may end the exchange before the request."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(1)
        return await super().receive_some(max_bytes)


async def test_a_truncated_head_is_not_followed_by_another_answer(autojump_clock: trio.testing.MockClock) -> None:
    """The request turns out to be invalid while an informational answer is being sent."""

    class Bad(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            if not self.first:
                await trio.sleep(1)
                return b"bad chunk\r\n"
            return await super().receive_some(max_bytes)

    near = Bad(POST + CHUNKED, takes=0)
    await serve(near, End(b"HTTP/1.1 103 A\r\nB: c\r\n\r\n"))
    assert near.received == b"HTTP/1.1 103 A\r\nB: c\r\n\r\n"
    assert not near.ended


async def test_a_request_that_ends_after_its_answer_has_begun(autojump_clock: trio.testing.MockClock) -> None:
    class Early(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            data = await super().receive_some(1)
            await trio.sleep(1)
            return data

    class Leaving(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            if not self.first:
                await trio.sleep(len(OK) - 2)
            return await super().receive_some(max_bytes)

    near = Leaving(POST + CHUNKED + b"5\r\nhel", then=None)
    await serve(near, Early(OK))
    assert near.received.endswith(b"hello")
    assert near.ended


async def test_a_stream_that_times_out_is_504(autojump_clock: trio.testing.MockClock) -> None:
    class TimingOut(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(1)
            raise trioanytls.StreamTimeout("idle")

    near = End(GET)
    await serve(near, TimingOut())
    assert near.received.startswith(b"HTTP/1.1 504 ")


async def test_a_destination_that_accepts_no_data_may_still_answer(autojump_clock: trio.testing.MockClock) -> None:
    class Deaf(Later):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError

    for first in (GET, POST + CHUNKED + b"5\r\nhel", POST + b"Content-Length: 3\r\n\r\nabc"):
        near = End(first)
        await serve(near, Deaf(OK))
        assert near.received.endswith(b"hello")


async def test_a_protocol_changes_when_the_request_is_sent(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(1)
            return await super().receive_some(len(self.first) - 1 if len(self.first) > 1 else None)

    near = Slow(POST + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc", then=None)
    far = End(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
    await serve(near, far)
    assert near.received.endswith(b"\r\n\r\nhello")
    assert far.received.endswith(b"abc")


async def test_a_protocol_that_has_changed_is_cut_off_by_a_reset(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data after the answer has no length: its end would look complete."""
    reset: list[trio.abc.Stream] = []

    async def reset_stream(stream: trio.abc.Stream) -> None:
        reset.append(stream)
        await stream.aclose()

    monkeypatch.setattr(http_proxy, "reset_stream", reset_stream)
    # The rest of the request does not come.
    near = End(POST + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nab")
    far = End(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
    await serve(near, far)
    assert near.received.endswith(b"\r\n\r\nhello")
    assert reset == [far, near]


@define(eq=False)
class Direct:
    """An upstream to one destination."""

    far: End
    counted: list[int] = field(factory=lambda: [0, 0])

    async def open(self, destination: Destination) -> End:
        await trio.lowlevel.checkpoint()
        return self.far

    async def relay(self, near: trio.abc.Stream, far: trio.abc.Stream, first: bytes = b"") -> None:
        await far.send_all(first)

    def count(self, up: int, down: int) -> None:
        self.counted[0] += up
        self.counted[1] += down


async def serve(near: End, far: End, **settings: float) -> float:
    """Serve a connection to its end. Return the time it took."""
    started = trio.current_time()
    await HTTPProxy(Direct(far), **settings)(near)  # type: ignore[arg-type]  # a stand-in, or what is tested
    assert near.closed
    return trio.current_time() - started


# Timeouts


@pytest.mark.parametrize("first", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(autojump_clock: trio.testing.MockClock, first: bytes) -> None:
    near = End(first)
    assert await serve(near, End(), idle_timeout=7, head_timeout=7) == pytest.approx(7)
    assert not near.received


async def test_a_connection_is_kept_for_the_next_request_and_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near = End(GET)
    assert await serve(near, End(OK), idle_timeout=7) == pytest.approx(7)
    assert near.received == OK


async def test_a_head_that_does_not_come_to_its_end_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    near = End(GET[:-2])
    assert await serve(near, End(), head_timeout=7, linger_time=1) == pytest.approx(8)
    assert near.received.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in near.received


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(1)
            return b"a"

    near = Slow()
    # Counted from the first byte, which arrives after a second. Lingering takes another one.
    assert await serve(near, End(), head_timeout=7.5, linger_time=1) == pytest.approx(1 + 7.5 + 1)
    assert near.received.startswith(b"HTTP/1.1 408 ")


async def test_a_destination_that_is_silent_is_not_waited_for_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET), End()
    assert await serve(near, far, silence_timeout=7, linger_time=1) == pytest.approx(8)
    assert near.received.startswith(b"HTTP/1.1 504 ")
    assert far.closed


async def test_a_destination_that_falls_silent_cuts_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET), End(OK[:-1])
    assert await serve(near, far, silence_timeout=7) == pytest.approx(7)
    assert near.received == OK[:-1]
    assert not near.ended


async def test_content_that_does_not_come_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(POST + CHUNKED + b"5\r\nhel"), End()
    assert await serve(near, far, silence_timeout=7, linger_time=1) == pytest.approx(8)
    assert near.received.startswith(b"HTTP/1.1 408 ")
    assert far.received.endswith(b"3\r\nhel\r\n")
    assert far.closed


async def test_an_application_that_does_not_read_times_out(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET, takes=10), End(OK[:-5], then=b"hello")
    assert await serve(near, far, silence_timeout=7) == pytest.approx(7)
    assert far.closed


async def test_each_piece_starts_the_timeout_again(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(5)
            return await super().receive_some(1)

    near = End(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), then=None)
    assert await serve(near, Slow(OK), half_closed_timeout=7) == pytest.approx(5 * len(OK))
    assert near.received.endswith(b"hello")


async def test_an_application_that_has_ended_its_sending_waits_for_less_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near = End(GET, then=None)
    assert await serve(near, End(), half_closed_timeout=7) == pytest.approx(7)
    assert near.received.startswith(b"HTTP/1.1 504 ")


async def test_data_after_the_last_answer_is_received_for_a_limited_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for first in (b"nonsense\r\n\r\n", GET.replace(b"1.1", b"1.0")):
        near = End(first)
        assert await serve(near, End(OK), linger_time=7) == pytest.approx(7)
        assert near.ended


async def test_an_answer_of_the_proxy_that_is_not_read_times_out(autojump_clock: trio.testing.MockClock) -> None:
    assert await serve(End(b"nonsense\r\n\r\n", takes=0), End(), linger_time=7) == pytest.approx(7)


# Limits: data that was received and not passed on


async def passing(near: End, far: End) -> None:
    """Serve a connection until nothing moves any more, and a little longer."""
    with trio.move_on_after(1000):
        await serve(near, far, head_timeout=math.inf, silence_timeout=math.inf)


async def test_an_endless_head_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    class Counting(End):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            counts.append(self.given)
            self.then = b""
            await super().send_all(data)

    counts: list[int] = []
    for start in (b"GET http://x/", b"GET http://x/ HTTP/1.1\r\nA: ", b"\r\n\r\nGET http://x/ HTTP/1.1\r\nA: "):
        near = Counting(start, then=b"a")
        await serve(near, End())
        assert near.received[9:12] in (b"414", b"431")  # type: ignore[comparison-overlap]  # either kind of bytes
        assert counts.pop() <= 2 * READ + len(start)


async def test_an_endless_head_of_an_answer_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET), End(b"HTTP/1.1 200 OK\r\nA: ", then=b"a")
    await serve(near, far)
    assert near.received.startswith(b"HTTP/1.1 502 ")
    assert far.given <= 256 * 1024 + 2 * READ


async def test_early_requests_remain_in_the_systems_buffer(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(then=GET), End()
    await passing(near, far)
    assert near.given <= 2 * READ


async def test_an_upload_waits_for_its_destination(autojump_clock: trio.testing.MockClock) -> None:
    for head in (POST + CHUNKED, POST + b"Content-Length: 1000000000000\r\n\r\n"):
        near, far = End(head, then=b"1\r\na\r\n"), End(takes=0)
        await passing(near, far)
        assert near.given <= READ


async def test_a_download_waits_for_its_application(autojump_clock: trio.testing.MockClock) -> None:
    for head in (CHUNKED, b"Content-Length: 1000000000000\r\n\r\n", b"\r\n"):
        near, far = End(GET, takes=0), End(b"HTTP/1.1 200 OK\r\n" + head, then=b"1\r\na\r\n")
        await passing(near, far)
        assert far.given <= READ
        assert len(near.received) <= 2 * READ


async def test_information_without_end_waits_for_its_application(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET, takes=100_000), End(then=b"HTTP/1.1 103 A\r\nB: c\r\n\r\n")
    await passing(near, far)
    assert far.given <= 100_000 + 2 * READ


async def test_an_upload_continues_while_the_answer_is_not_read(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(POST + b"Content-Length: 1000000\r\n\r\n", then=b"a", takes=0), End(OK[:-1])
    await passing(near, far)
    assert far.received.endswith(b"a" * 1_000_000)


# Ends


@define(eq=False)
class Breaking(End):
    """A side that breaks instead of falling silent."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.first:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("reset")
        return await super().receive_some(max_bytes)


async def test_an_application_that_breaks_off_ends_its_stream() -> None:
    for first in (b"", GET[:-2], GET, POST + CHUNKED + b"5\r\nhel"):
        near, far = Breaking(first), End()
        with trio.fail_after(5):
            await serve(near, far)
        assert not near.received
        assert far.closed == (first in (GET, POST + CHUNKED + b"5\r\nhel"))


async def test_a_client_that_is_closed_is_502(autojump_clock: trio.testing.MockClock) -> None:
    class Closed(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(1)
            raise trio.ClosedResourceError

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError

    for first in (GET, POST + CHUNKED + b"5\r\nhel"):
        near = End(first)
        await serve(near, Closed())
        assert near.received.startswith(b"HTTP/1.1 502 ")


async def test_a_destination_that_breaks_off_before_its_answer_is_502(autojump_clock: trio.testing.MockClock) -> None:
    for first in (b"", OK[:20], b"HTTP/1.1 103 A\r\n\r\n"):
        near = End(GET)
        await serve(near, Breaking(first))
        assert b"HTTP/1.1 502 " in near.received
        assert near.ended


@pytest.mark.parametrize("head", [b"Content-Length: 90\r\n\r\n", CHUNKED, b"\r\n"], ids=["length", "chunks", "end"])
async def test_a_destination_that_breaks_off_within_its_answer_cuts_it(head: bytes) -> None:
    near = End(GET)
    await serve(near, Breaking(b"HTTP/1.1 200 OK\r\n" + head + b"5\r\nhello\r\n"))
    assert near.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not near.received.endswith(b"0\r\n\r\n")
    # An orderly end would mean that an answer without a length is complete.
    assert not near.ended


async def test_bad_chunks_within_an_answer_cut_it() -> None:
    class Pieces(End):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return await super().receive_some(1)

    near = End(GET)
    await serve(near, Pieces(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"5\r\nhello\r\nx\r\n"))
    assert near.received.endswith(b"1\r\no\r\n")
    assert not near.ended


async def test_relayed_bytes_are_counted(autojump_clock: trio.testing.MockClock) -> None:
    upstream = Direct(Later(OK))
    await HTTPProxy(upstream)(End(GET))  # type: ignore[arg-type]  # a stand-in, or what is tested
    assert upstream.counted == [len(upstream.far.received), len(OK)]


async def test_all_credentials_are_those_of_the_proxy_and_go_no_further(autojump_clock: trio.testing.MockClock) -> None:
    far = Later(OK)
    await serve(End(GET.replace(b"\r\n\r\n", b"\r\nProxy-Authorization: Basic eDp5\r\n\r\n")), far)
    assert far.received
    assert b"eDp5" not in far.received


@pytest.mark.parametrize(
    ("reply", "status"), [(ReplyCode.NOT_ALLOWED, 403), (ReplyCode.TIMED_OUT, 504), (ReplyCode.HOST_UNREACHABLE, 502)]
)
async def test_a_destination_that_cannot_be_reached(
    autojump_clock: trio.testing.MockClock, reply: ReplyCode, status: int
) -> None:
    class Nowhere(Direct):
        async def open(self, destination: Destination) -> End:
            await trio.lowlevel.checkpoint()
            raise Unreachable(reply)

    for first in (GET, GET.replace(b"GET", b"HEAD"), b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"):
        near = End(first)
        await HTTPProxy(Nowhere(End()))(near)  # type: ignore[arg-type]  # a stand-in, or what is tested
        assert near.received.startswith(b"HTTP/1.1 %d " % status)
        assert near.received.endswith(b"\r\n\r\n") == first.startswith(b"HEAD")


async def test_via_is_sent_if_it_has_a_name(autojump_clock: trio.testing.MockClock) -> None:
    near, far = End(GET), Later(OK.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await HTTPProxy(Direct(far), via="laptop")(near)  # type: ignore[arg-type]  # a stand-in, or what is tested
    assert b"\r\nVia: 1.1 laptop\r\n" in far.received
    assert b"\r\nVia: 1.0 laptop\r\n" in near.received


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\r\nb", "\u00fc"])
def test_a_name_for_via_is_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="invalid name"):
        HTTPProxy(Direct(End()), via=name)  # type: ignore[arg-type]  # a stand-in, or what is tested
