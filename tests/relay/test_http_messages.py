"""Heads and content of HTTP messages: read whole, byte by byte, and with trailing data, within limits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.relay.http_bodies import (
    Framing,
    Incomplete,
    answer_framing,
    request_framing,
    write_chunk,
    write_last_chunk,
)
from trioanytls.relay.http_forward import parse_target, upgrades_of, write_request
from trioanytls.relay.http_heads import (
    Answer,
    HeadBuffer,
    HTTPError,
    HTTPRequest,
    elements_of,
    parse_answer,
    parse_request,
    write_head,
)

REQUEST = b"GET http://x/ HTTP/1.1\r\nHost: x\r\nA: \t1 \r\n\r\n"
HEAD = b"GET http://x/ HTTP/1.1\r\nHost: x\r\nA: \t1 \r"


def heads_of(buffer: HeadBuffer, pieces: list[bytes]) -> list[bytes]:
    heads = []
    for piece in pieces:
        buffer.feed(piece)
        while (head := buffer.take_head()) is not None:
            heads.append(head)
    return heads


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_heads_come_out_however_they_arrive(step: int, end: bytes) -> None:
    data = b"\r\n\n" + (b"a\r\nb" + end) * 3 + b"rest"
    buffer = HeadBuffer(100)
    heads = heads_of(buffer, [data[start : start + step] for start in range(0, len(data), step)])
    assert [head.rstrip(b"\r") for head in heads] == [b"a\r\nb"] * 3
    assert buffer.take_rest() == b"rest"
    assert not buffer


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b":", b"\r\n\r\n"])), st.integers(1, 5))
def test_pieces_do_not_change_heads(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    whole, pieces = HeadBuffer(1000), HeadBuffer(1000)
    assert heads_of(whole, [data]) == heads_of(pieces, [data[i : i + step] for i in range(0, len(data), step)])
    assert whole.take_rest().lstrip(b"\r\n") == pieces.take_rest().lstrip(b"\r\n")


def test_a_head_has_at_most_its_limit() -> None:
    for data, status in ((b"a" * 101, 414), (b"a\r\n" + b"b" * 98, 431), (b"a\r\n" + b"b" * 200 + b"\r\n\r\n", 431)):
        buffer = HeadBuffer(100)
        buffer.feed(data)
        with pytest.raises(HTTPError, match="longer than 100 bytes") as caught:
            buffer.take_head()
        assert caught.value.status == status
    buffer = HeadBuffer(100, of_answers=True)
    buffer.feed(b"a" * 101)
    with pytest.raises(HTTPError, match="answer is longer") as caught:
        buffer.take_head()
    assert caught.value.status == 502
    # Data after a head does not count.
    buffer = HeadBuffer(100)
    buffer.feed(b"a\r\n\r\n" + b"b" * 200)
    assert buffer.take_head() == b"a\r"


def test_each_head_is_searched_from_its_beginning() -> None:
    buffer = HeadBuffer(1000)
    assert heads_of(buffer, [b"a" * 100, b"\r\n\r\nb\r\n\r\n"]) == [b"a" * 100 + b"\r", b"b\r"]
    assert heads_of(buffer, [b"a" * 100]) == []
    assert buffer.take_rest() == b"a" * 100
    assert heads_of(buffer, [b"b\r\n\r\n"]) == [b"b\r"]


def test_a_folded_value_has_no_whitespace_around_it() -> None:
    assert parse_answer(b"HTTP/1.1 200 OK\r\nA: b\r\n \r\nC:\r\n d").fields == [(b"A", b"b"), (b"C", b"d")]


@pytest.mark.parametrize("trailer", [b"A: \0", b"A: b\rc", b"A: b\nc: d"])
def test_trailers_have_no_odd_characters(trailer: bytes) -> None:
    with pytest.raises(HTTPError, match="in the trailers"):
        Framing(None, chunked=True).body(400).feed(b"0\r\n" + trailer + b"\r\n\r\n")


def test_a_request() -> None:
    assert parse_request(HEAD) == HTTPRequest(b"GET", b"http://x/", 1, [(b"Host", b"x"), (b"A", b"1")])
    assert parse_request(b"X y HTTP/1.0") == HTTPRequest(b"X", b"y", 0, [])


def test_an_answer() -> None:
    answer = parse_answer(b"HTTP/1.0 404 Not there\r\nA : b\r\n c\r\n\td\r\nE:")
    assert answer == Answer(404, b"Not there", 0, [(b"A", b"b c d"), (b"E", b"")])
    assert parse_answer(b"HTTP/1.1 200").reason == b""


@given(st.lists(st.tuples(st.from_regex(rb"[!-9;-~]{1,5}", fullmatch=True), st.binary(max_size=8))))
def test_a_written_message_parses_as_the_same_message(fields: list[tuple[bytes, bytes]]) -> None:
    """The next recipient must not read a different message."""
    head = b"GET / HTTP/1.1\r\n" + b"\r\n".join(name + b":" + value for name, value in fields)
    try:
        request = parse_request(head)
    except HTTPError:
        return
    written = write_head(b"GET / HTTP/1.1", request.fields)
    buffer = HeadBuffer(10_000)
    buffer.feed(written)
    again = buffer.take_head()
    assert again is not None
    assert parse_request(again).fields == request.fields
    assert not buffer


@given(st.binary(max_size=60))
def test_no_bytes_make_a_parser_fail_in_another_way(data: bytes) -> None:
    for parse, prefix in ((parse_request, b""), (parse_request, b"GET http://x/ HTTP/1.1\r\n"), (parse_answer, b"")):
        with contextlib.suppress(HTTPError):
            parse(prefix + data)


def test_elements_of_a_list() -> None:
    fields = [(b"A", b"b, ,\tc,"), (b"x", b"y"), (b"a", b""), (b"A", b"d")]
    assert elements_of(fields, b"a") == [b"b", b"c", b"d"]


# Content


CHUNKS = b"5\r\nhello\r\n0001;a=b\r\n \r\n5 ;x\r\nworld\r\n0\r\nSum: 1\r\nB:\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_chunks_come_out_however_they_arrive(step: int) -> None:
    body = Framing(None, chunked=True).body(400)
    data = CHUNKS + b"rest"
    content = b"".join(body.feed(data[start : start + step]) for start in range(0, len(data), step))
    assert content == b"hello world"
    assert body.done
    body.end()
    assert body.trailers == [(b"Sum", b"1"), (b"B", b"")]
    assert body.rest == b"rest"


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_chunks_that_were_written_are_read(pieces: list[bytes], step: int) -> None:
    data = b"".join(write_chunk(piece) for piece in pieces) + write_last_chunk([(b"A", b"b")])
    body = Framing(None, chunked=True).body(400)
    content = b"".join(body.feed(data[start : start + step]) for start in range(0, len(data), step))
    assert content == b"".join(pieces)
    assert body.done
    assert body.trailers == [(b"A", b"b")]


@pytest.mark.parametrize("cut", range(len(CHUNKS)))
def test_chunks_that_are_cut_are_incomplete(cut: int) -> None:
    body = Framing(None, chunked=True).body(400)
    body.feed(CHUNKS[:cut])
    with pytest.raises(Incomplete):
        body.end()


@given(st.binary(max_size=40), st.integers(1, 5))
def test_pieces_do_not_change_chunks(data: bytes, step: int) -> None:
    def read(pieces: list[bytes]) -> object:
        body = Framing(None, chunked=True).body(502)
        try:
            content = b"".join([body.feed(piece) for piece in pieces])
        except HTTPError as error:
            return error.status
        return content, body.done, body.rest, body.trailers

    data = b"1\r\na\r\n" + data
    assert read([data]) == read([data[start : start + step] for start in range(0, len(data), step)])


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (b"1;", b"a" * 1000),
        (b"", b"1;" + b"a" * 1000 + b"\r\na\r\n"),
        (b"0\r\n", b"A: b\r\n" * 100),
        (b"0\r\nA:", b"b" * 1000),
        (b"", b"0" * 1000),
    ],
    ids=["extension", "extensions", "trailers", "trailer", "size"],
)
def test_buffered_chunks_are_bounded(start: bytes, endless: bytes) -> None:
    body = Framing(None, chunked=True).body(400)
    body.feed(start)
    with pytest.raises(HTTPError) as caught:
        for _ in range(1000):
            body.feed(endless)
    assert caught.value.status == 400


def test_content_of_a_length() -> None:
    body = Framing(5).body(400)
    assert body.feed(b"he") + body.feed(b"llo!") == b"hello"
    assert (body.done, body.rest) == (True, b"!")
    body.end()
    short = Framing(5).body(400)
    short.feed(b"hell")
    with pytest.raises(Incomplete, match="1 bytes"):
        short.end()
    assert Framing(0).body(400).done


def test_content_until_the_end() -> None:
    body = Framing(None).body(502)
    assert body.feed(b"hello") == b"hello"
    assert not body.done
    body.end()
    assert body.done


def test_a_request_without_length_has_no_content() -> None:
    framing = request_framing(parse_request(b"POST / HTTP/1.1"))
    assert not framing.present
    assert framing.body(400).done


def test_the_framing_of_answers() -> None:
    def framing(head: bytes, method: bytes = b"GET") -> Framing:
        return answer_framing(parse_answer(b"HTTP/1.1 " + head), method)

    assert framing(b"200\r\nContent-Length: 3") == Framing(3)
    assert framing(b"200\r\nContent-Length: 3", b"HEAD") == Framing(3, present=False)
    assert framing(b"304\r\nContent-Length: 3") == Framing(3, present=False)
    assert framing(b"204\r\nContent-Length: 3") == Framing(None, present=False)
    assert framing(b"103\r\nContent-Length: 3") == Framing(None, present=False)
    assert framing(b"200").until_close
    assert framing(b"200\r\nTransfer-Encoding: gzip").until_close
    assert framing(b"200\r\nTransfer-Encoding: gzip, chunked").chunked


# Forwarding


@pytest.mark.parametrize(
    ("target", "host", "port", "form", "field"),
    [
        (b"http://x", "x", 80, b"/", b"x"),
        (b"http://x:", "x", 80, b"/", b"x:"),
        (b"http://x:8080/a?b", "x", 8080, b"/a?b", b"x:8080"),
        (b"HTTP://X?b?", "X", 80, b"/?b?", b"X"),
        (b"http://[2001:db8::1]/", "2001:db8::1", 80, b"/", b"[2001:db8::1]"),
        (b"http://[::1]:81//", "::1", 81, b"//", b"[::1]:81"),
        (
            "http://b\u00fccher.example:81/\u00fc".encode(),
            "b\u00fccher.example",
            81,
            "/\u00fc".encode(),
            b"xn--bcher-kva.example:81",
        ),
        (b"http://a/http://b/", "a", 80, b"/http://b/", b"a"),
    ],
)
def test_targets(target: bytes, host: str, port: int, form: bytes, field: bytes) -> None:
    parsed = parse_target(HTTPRequest(b"GET", target, 1, []))
    assert (parsed.destination.host, parsed.destination.port) == (host, port)
    assert (parsed.form, parsed.host) == (form, field)


@pytest.mark.parametrize(
    "target",
    [b"", b"/", b"*", b"x", b"x:80", b"http:/x", b"http://", b"http:///", b"http://:80/", b"http://@x/", b"http://x@y/",
     b"http://x:y/", b"http://x:-1/", b"http://x:080808/", b"http://[::1", b"http://[::1]x/", b"http://[::1%25a]/",
     b"http://[v1.x]/", b"http://x,y z/", b"http://\xff/", b"http://x<y/", b"ftp://x/", b"https://x/", b"http://x/#",
     "http://\u2100/".encode()],
)  # fmt: skip
def test_invalid_targets(target: bytes) -> None:
    with pytest.raises(HTTPError) as caught:
        parse_target(HTTPRequest(b"GET", target, 1, []))
    assert caught.value.status == 400


def test_an_upgrade_to_http_2_is_not_forwarded() -> None:
    fields = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c, websocket")]
    assert upgrades_of(HTTPRequest(b"GET", b"/", 1, fields)) == b"websocket"


@pytest.mark.parametrize("minor", [0, 1])
def test_via_has_the_received_version_and_a_name(minor: int) -> None:
    request = HTTPRequest(b"GET", b"http://x/", minor, [(b"Host", b"x"), (b"Via", b"1.0 other")])
    head = write_request(request, parse_target(request), Framing(None, present=False), "name")
    assert head.count(b"Via: ") == 2
    assert b"Via: 1.0 other\r\nVia: 1.%d name\r\n" % minor in head
