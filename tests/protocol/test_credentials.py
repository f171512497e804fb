"""Users and their passwords (spec: Authentication; protocol: 2 and 4)."""

from __future__ import annotations

import hashlib
import hmac
import select
import ssl

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls.testing import echo

from ..conftest import HOST


def test_the_hash_is_sha_256_of_the_utf_8_password() -> None:
    assert hash_password("password").hex() == "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    assert hash_password("pässwörd €") == hashlib.sha256("pässwörd €".encode()).digest()
    assert hash_password("") == hashlib.sha256(b"").digest()


def test_users_are_found_by_their_hashes() -> None:
    users = UserTable({"alice": "password", "bob": "builder"})
    assert users.find(hash_password("password")) == "alice"
    assert users.find(hash_password("builder")) == "bob"


@pytest.mark.parametrize("password_hash", [bytes(32), hash_password("Password"), hash_password("password")[:31], b""])
def test_no_user_is_found_by_another_hash(password_hash: bytes) -> None:
    assert UserTable({"alice": "password", "bob": "builder"}).find(password_hash) is None


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=5))
def test_each_user_is_found_if_all_passwords_differ(passwords: dict[str, str]) -> None:
    if len(set(passwords.values())) < len(passwords):
        with pytest.raises(ValueError, match="the same password"):
            UserTable(passwords)
        return
    users = UserTable(passwords)
    for name, password in passwords.items():
        assert users.find(hash_password(password)) == name


@pytest.mark.parametrize("password", ["first", "second", "third", "unknown"])
def test_all_users_are_compared_in_constant_time_whichever_matches(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol: 4. The comparison always includes all users."""
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return compare(one, other)

    users = UserTable({"a": "first", "b": "second", "c": "third"})
    monkeypatch.setattr(hmac, "compare_digest", watched)
    users.find(hash_password(password))
    assert sorted(compared) == sorted(map(hash_password, ["first", "second", "third"]))


def test_a_server_needs_a_user() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        UserTable({})


def test_two_users_cannot_have_the_same_password() -> None:
    # The hash is the only information about a user in the frame. The error names the users, not the password.
    with pytest.raises(ValueError, match="'alice' and 'bob' have the same password") as caught:
        UserTable({"alice": "secret", "carol": "other", "bob": "secret"})
    assert "secret" not in str(caught.value)


def test_users_do_not_show_their_passwords() -> None:
    assert "password" not in repr(UserTable({"alice": "password"}))


async def test_a_server_needs_users_that_can_be_told_apart(server_context: ssl.SSLContext) -> None:
    for users, message in (({}, "at least one"), ({"a": "same", "b": "same"}, "same password")):
        with pytest.raises(ValueError, match=message):
            await trioanytls.serve(echo, 0, host=HOST, ssl_context=server_context, users=users)


# A string that cannot be encoded, and so cannot be a password.
SURROGATE = "pass\udc80word"


async def test_a_password_that_cannot_be_encoded_is_refused_before_anything_is_connected(
    client_context: ssl.SSLContext,
) -> None:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ValueError, match=r"^the password cannot be encoded as UTF-8: surrogates not allowed"):
            async with trioanytls.open_connection(HOST, port, password=SURROGATE, ssl_context=client_context):
                pass
        assert not select.select([listener.socket.fileno()], [], [], 0)[0]


async def test_the_error_of_a_password_does_not_show_it() -> None:
    near, _ = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="password") as caught:
        async with trioanytls.wrap_client(near, password=SURROGATE):
            pass
    assert "pass\\udc80" not in repr(caught.value)
    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (bytes(range(32)), b"\x00\x00" + bytes(range(30))),
        (b"\x00\x00" + bytes(range(30)), bytes(range(32))),
        (bytes(32), b"x" * 32),
    ],
)
def test_users_that_one_port_cannot_tell_apart_are_refused(one: bytes, other: bytes, hashes: dict[str, bytes]) -> None:
    hashes |= {"one": one, "other": other}
    with pytest.raises(ValueError, match="cannot be told apart"):
        UserTable({"alice": "one", "bob": "other"})
    if one != bytes(32):
        UserTable({"alice": "one"})
        UserTable({"bob": "other"})
