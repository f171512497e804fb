"""Copying and pickling the exceptions of the package."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import trioanytls
from trioanytls import AnyTLSError, CloseCode, ConnectionClosed, DataBlockError, SideBroken
from trioanytls._server.control import NotRunningError
from trioanytls._server.handshake import HandshakeError
from trioanytls.cli.common.runner import Interrupted
from trioanytls.relay.dial import Busy, DialError, NotAllowed
from trioanytls.relay.http_heads import HTTPError
from trioanytls.relay.refusals import Refusal
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.socks5 import SOCKSError
from trioanytls.relay.upstream import Unreachable

for _module in pkgutil.walk_packages(trioanytls.__path__, "trioanytls."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)


def errors(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """Yield the package's exceptions that are subclasses of `kind`, at any depth."""
    for one in kind.__subclasses__():
        if one.__module__.split(".")[0] == "trioanytls":
            yield one
        yield from errors(one)


ALL = sorted(set(errors(BaseException)), key=lambda one: (one.__module__, one.__name__))

#: The exceptions that take other arguments than a text: these arguments, and the resulting attributes.
SPECIAL: dict[type[BaseException], tuple[tuple[object, ...], dict[str, object]]] = {
    ConnectionClosed: ((CloseCode.IDLE_TIMEOUT, "re\nason"), {"code": CloseCode.IDLE_TIMEOUT, "reason": "re\\nason"}),
    DataBlockError: ((3, "a rule"), {"line": 3, "rule": "a rule"}),
    NotRunningError: ((), {}),
    Interrupted: ((), {"message": "interrupted"}),
    SideBroken: (("near", LookupError("gone")), {"side": "near"}),
    DialError: (("text", ReplyCode.TIMED_OUT), {"reply": ReplyCode.TIMED_OUT}),
    NotAllowed: (("text",), {"reply": ReplyCode.NOT_ALLOWED}),
    Refusal: (("text", ReplyCode.TIMED_OUT), {"reply": ReplyCode.TIMED_OUT}),
    Busy: (("text",), {"reply": ReplyCode.GENERAL_FAILURE}),
    Unreachable: ((ReplyCode.TIMED_OUT, "detail"), {"reply": ReplyCode.TIMED_OUT}),
    HandshakeError: (("TLS", "a text"), {"step": "TLS"}),
    HTTPError: ((407, "text", [(b"a", b"b")]), {"status": 407, "fields": [(b"a", b"b")]}),
    SOCKSError: (("text", b"\x05\xff"), {"answer": b"\x05\xff"}),
}


def through_pickle(protocol: int, error: BaseException) -> BaseException:
    copied: BaseException = pickle.loads(pickle.dumps(error, protocol))
    return copied


WAYS: dict[str, Callable[[BaseException], BaseException]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {protocol}": partial(through_pickle, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
}


def test_the_walk_finds_them() -> None:
    assert {one for one in ALL if issubclass(one, AnyTLSError)} >= {AnyTLSError, ConnectionClosed, DataBlockError}
    assert {getattr(trioanytls, name) for name in trioanytls.__all__ if name.endswith(("Error", "Closed"))} <= set(ALL)
    assert SPECIAL.keys() <= set(ALL)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_keeps_everything(kind: type[BaseException], way: Callable[[BaseException], BaseException]) -> None:
    arguments, expected = SPECIAL.get(kind, (("a text",), {}))
    error = kind(*arguments)
    error.add_note("a note")
    again = way(error)
    assert type(again) is kind
    assert again is not error
    assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
    assert again.__notes__ == ["a note"]
    assert vars(again).keys() == vars(error).keys()
    for name, value in expected.items():
        assert getattr(again, name) == getattr(error, name) == value
    # A copy of the copy is the same.
    assert str(way(again)) == str(error)


def test_an_error_of_the_system_keeps_its_number() -> None:
    for way in WAYS.values():
        again = way(trioanytls.ConnectFailed(111, "refused", "name"))
        assert isinstance(again, trioanytls.ConnectFailed)
        assert (again.errno, again.strerror, again.filename) == (111, "refused", "name")
