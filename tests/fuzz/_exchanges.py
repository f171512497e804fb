"""Exchanges between a faulty or malicious application, a front end and a site, drawn from a seed.

An exchange defines the actions of application and site: the bytes, their pieces, and how each ends. Half of the data is
valid, with changes in a few places.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal

from attrs import frozen

from trioanytls.destination import Destination, encode

#: The front ends, by their names in `Exchange.front`.
FRONTS: Final = ("socks", "http", "mixed", "forward", "udp-associate", "udp-forward")

#: The ways in which an application ends: it closes at once, or after reading for a moment. It resets. It half-closes
#: and reads to the end. It waits for the end.
AppEnd = Literal["close", "read-close", "reset", "eof", "wait"]
#: The ways in which a site ends: it closes, resets, half-closes and continues to read, or does nothing until the
#: application has disconnected.
SiteEnd = Literal["close", "reset", "eof", "hang"]


@frozen
class Site:
    """The actions of a site.

    Attributes:
      reads: the number of bytes that it reads before it answers.
      pieces: the pieces of its answer.
      end: the way in which it ends.
    """

    reads: int
    pieces: tuple[bytes, ...]
    end: SiteEnd


@frozen
class Exchange:
    """The actions of an application.

    Attributes:
      front: the front end to which it connects.
      pieces: the pieces that it sends; the datagrams for UDP.
      end: the way in which it ends.
      site: the actions of its site.
    """

    front: str
    pieces: tuple[bytes, ...]
    end: AppEnd
    site: Site


def make_exchange(seed: int, number: int, host: str, port: int, *, waits: bool) -> Exchange:
    """Draw the exchange with this number, to a site at this address.

    Args:
      waits: whether applications may wait for the client's timeouts.
    """
    rng = random.Random(f"{seed}:{number}")
    front = FRONTS[number % len(FRONTS)]
    site = make_site(rng)
    if front.startswith("udp"):
        return Exchange(front, tuple(_datagrams(rng, host, port)), rng.choice(["close", "reset", "eof"]), site)
    speaks = rng.choice(["socks", "http"]) if front == "mixed" else front
    if rng.random() < 0.05:
        speaks = rng.choice(["socks", "http", "forward"])
    make: dict[str, Callable[[random.Random, str, int], bytes]] = {
        "socks": _socks,
        "http": _http,
        "forward": lambda rng, _host, _port: rng.randbytes(rng.randrange(5000)),
    }
    data = make[speaks](rng, host, port)
    if rng.random() < 0.5:
        data = _mutate(rng, data)
    ends: list[AppEnd] = ["close", "read-close", "reset", "eof", "eof"]
    # An application that waits for the end needs a site that ends, too. A UDP association lives for minutes.
    if waits and site.end != "hang" and b"\x05\x03" not in data:
        ends.append("wait")
    return Exchange(front, tuple(_cut(rng, data)), rng.choice(ends), site)


def make_site(rng: random.Random) -> Site:
    """Draw the actions of a site, which do not depend on the data."""
    answer = _answer(rng)
    if rng.random() < 0.4:
        answer = _mutate(rng, answer)
    ends: list[SiteEnd] = ["close", "close", "reset", "eof", "hang"]
    return Site(rng.choice([0, 0, 1, 20, 200, 100_000]), tuple(_cut(rng, answer)), rng.choice(ends))


def _cut(rng: random.Random, data: bytes) -> list[bytes]:
    count = rng.choice([1, 1, 2, 3, 10, 40])
    positions = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(count - 1))})
    pieces = [data[start:end] for start, end in pairwise(positions)]
    # Includes one that ends early.
    return pieces[: rng.randrange(len(pieces))] if pieces and rng.random() < 0.2 else pieces


def _mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice([1, 1, 2, 8, 100])
        match rng.randrange(6):
            case 0:
                changed[at : at + size] = rng.randbytes(len(changed[at : at + size]))
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = rng.randbytes(size)
            case 3:
                changed[at:at] = changed[max(0, at - size) : at]
            case 4:
                changed[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b"\xff", b" ", b":", b"\r\n\r\n", b"0" * 300])
            case _:
                del changed[at:]
    return bytes(changed)


# The first data of applications


def _socks(rng: random.Random, host: str, port: int) -> bytes:
    destination = rng.choice(
        [
            Destination(host, port),
            Destination(host, port),
            Destination("localhost", port),
            Destination("localhost", port),
            Destination(host, 1),
            Destination("name.invalid", 80),
            Destination("10.0.0.1", 80),
            Destination("::1", port),
            Destination("sp.v2.udp-over-tcp.arpa", 0),
        ]
    )
    after = rng.choice([b"", _get(rng, host, port), rng.randbytes(300)])
    if rng.random() < 0.4:
        head = b"\x04" + bytes([rng.choice([1, 1, 1, 2, 0, 255])]) + destination.port.to_bytes(2, "big")
        user = rng.choice([b"", b"user", rng.randbytes(20), b"u" * 300])
        name = rng.choice([b"localhost", destination.host.encode(), rng.randbytes(30), b"n" * 300])
        if rng.random() < 0.5:
            return head + b"\x7f\x00\x00\x01" + user + b"\0" + after
        return head + b"\x00\x00\x00\x01" + user + b"\0" + name + b"\0" + after
    methods = rng.choice([b"\x00", b"\x00", b"\x00", b"\x00\x02", b"\x02", b"", bytes(range(255))])
    command = rng.choice([1, 1, 1, 1, 2, 3, 0, 255])
    request = b"\x05" + bytes([command]) + b"\x00" + encode(destination)
    return b"\x05" + bytes([len(methods)]) + methods + request + after


def _get(rng: random.Random, host: str, port: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: %b:%d\r\n\r\n" % (rng.randrange(100), host.encode(), port)


def _http(rng: random.Random, host: str, port: int) -> bytes:
    return b"".join(_http_request(rng, host.encode(), port) for _ in range(rng.choice([1, 1, 1, 2, 5])))


def _http_request(rng: random.Random, host: bytes, port: int) -> bytes:
    version = rng.choice([b"1.1", b"1.1", b"1.1", b"1.0", b"2.0", b"0.9"])
    if rng.random() < 0.25:
        target = rng.choice([b"%b:%d" % (host, port), b"%b:1" % host, b"[::1]:%d" % port, b"x", b"%b:0" % host])
        return b"CONNECT %b HTTP/%b\r\nHost: x\r\n\r\n" % (target, version) + rng.randbytes(rng.randrange(200))
    method = rng.choice([b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"FOO", b"PRI"])
    target = rng.choice(
        [
            b"http://%b:%d/a?b=c" % (host, port),
            b"http://%b:%d" % (host, port),
            b"http://%b:%d/%%zz\xc3\xa4?" % (host, port),
            b"http://user:pw@%b:%d/" % (host, port),
            b"http://%b:1/" % host,
            b"http://10.0.0.1/",
            b"https://%b/" % host,
            b"http://",
            b"/",
            b"*",
        ]
    )
    headers = [b"Host: %b:%d" % (host, port), *(_request_header(rng) for _ in range(rng.randrange(4)))]
    body = b""
    if rng.random() < 0.5:
        size = rng.choice([0, 1, 5, 1000, 100_000])
        if rng.random() < 0.5:
            headers.append(b"Content-Length: %d" % size)
            body = rng.randbytes(size)
        else:
            headers.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, rng.randbytes(size))
    return b"%b %b HTTP/%b\r\n%b\r\n\r\n" % (method, target, version, b"\r\n".join(headers)) + body


def _request_header(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"Connection: " + rng.choice([b"close", b"keep-alive", b"content-length", b"host", b"upgrade, te"]),
            b"Transfer-Encoding: " + rng.choice([b"chunked", b"gzip", b"identity", b"chunked, chunked"]),
            b"Content-Length: " + rng.choice([b"0", b"5", b"-1", b"5, 5", b"99999999999999999999", b"x"]),
            b"Expect: 100-continue",
            b"Upgrade: websocket",
            b"Proxy-Authorization: " + rng.choice([b"Basic !", b"basic " + base64.b64encode(b"a:b"), b"X"]),
            b"X-Long: " + b"x" * rng.choice([10, 10_000, 200_000]),
            b"X-\xff: \xff",
            b"X: 1\r\n folded",
            b"Bad Header",
            b"",
        ]
    )


def _datagrams(rng: random.Random, host: str, port: int) -> list[bytes]:
    made = []
    for _ in range(rng.randrange(1, 6)):
        destination = rng.choice([Destination(host, port), Destination("localhost", port), Destination("10.0.0.1", 5)])
        data = b"\0\0\0" + encode(destination) + rng.randbytes(rng.choice([0, 1, 100, 1400, 60_000]))
        made.append(_mutate(rng, data)[:65_000] if rng.random() < 0.5 else data)
    return made


# The answers of sites


def _answer_header(rng: random.Random) -> bytes:
    return rng.choice(
        [
            b"Connection: " + rng.choice([b"close", b"keep-alive", b"content-length", b"transfer-encoding"]),
            b"Content-Length: " + rng.choice([b"0", b"5", b"-1", b"5, 6", b"99999999999999999999"]),
            b"Transfer-Encoding: " + rng.choice([b"chunked", b"gzip", b"chunked, gzip"]),
            b"Set-Cookie: a=b",
            b"X-Long: " + b"x" * rng.choice([10, 100_000, 300_000]),
            b"Trailer: x",
            b"No Colon",
        ]
    )


def _answer(rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.choice([0, 1, 100, 70_000]))
    status = rng.choice([b"200 OK", b"204 No", b"304 No", b"404 ", b"500 \xff", b"101 Up", b"999 X", b"20 X", b"413 Z"])
    headers = [_answer_header(rng) for _ in range(rng.randrange(4))]
    first = b"".join(
        rng.choice([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
        for _ in range(rng.choice([0, 0, 0, 1, 3, 200]))
    )
    body = rng.randbytes(rng.choice([0, 5, 1000, 200_000]))
    if kind == 1:
        headers.append(b"Content-Length: %d" % len(body))
    elif kind == 2:
        headers.append(b"Transfer-Encoding: chunked")
        body = b"%x;ext=1\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(body), body)
    return first + b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (status, b"\r\n".join(headers)) + body
