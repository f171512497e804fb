"""`WorkersControl`: changes are validated in the parent and passed on to all workers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

import trioanytls
from trioanytls import Control, ServerControl, ServerStats, WorkersControl
from trioanytls.testing import echo

from ..conftest import HOST, USERS
from ..helpers.worker_tasks import (
    Tasks,
    running_workers,
    serves,
    settled,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


async def test_users_and_certificates_are_for_all(
    tasks: Tasks, told: list[object], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificate.parent)
    path = str(certificate)
    async with running_workers(serves, workers=2) as control:
        control.replace_users({"bob": "new"})
        # The current directory of a worker may be another one.
        control.replace_certificate(Path(certificate.name), password="secret")
        await settled()
        control.replace_certificate(certificate.name, certificate.name)
        await settled()
    exchanged = [("users", {"bob": "new"}), ("certificate", path, None, "secret"), ("certificate", path, path, "")]
    assert [call for call in told if call[0] != "drain"] == [call for call in exchanged for _ in range(2)]  # type: ignore[index]  # of a table


@pytest.mark.parametrize("users", [{}, {"alice": "same", "bob": "same"}])
async def test_invalid_users_are_refused(tasks: Tasks, told: list[object], users: dict[str, str]) -> None:
    async with running_workers(serves) as control:
        with pytest.raises(ValueError, match="user"):
            control.replace_users(users)
        assert told == []


async def test_an_invalid_certificate_is_refused(
    tasks: Tasks, told: list[object], authority: trustme.CA, tmp_path: Path
) -> None:
    async with running_workers(serves) as control:
        with pytest.raises(FileNotFoundError):
            control.replace_certificate(tmp_path / "none.pem")
        authority.cert_pem.write_to_path(str(tmp_path / "without_key.pem"))
        with pytest.raises(ssl.SSLError):
            control.replace_certificate(tmp_path / "without_key.pem")
        assert told == []


@pytest.fixture
def encrypted_key(certificate: Path, tmp_path: Path) -> Path:
    """Write the key of `certificate`, encrypted with the password "secret"."""
    key = serialization.load_pem_private_key(certificate.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


async def test_an_encrypted_key_without_a_password_is_an_error(
    tasks: Tasks, certificate: Path, encrypted_key: Path
) -> None:
    """OpenSSL would ask for the password on the terminal and block the event loop."""
    async with running_workers(serves) as control:
        with pytest.raises(ssl.SSLError):
            control.replace_certificate(certificate, encrypted_key)
        control.replace_certificate(certificate, encrypted_key, "secret")


async def test_a_control_without_workers() -> None:
    control = WorkersControl()
    assert repr(control) == "<trioanytls.WorkersControl without running workers>"
    for use in (control.drain, control.snapshot, lambda: control.replace_users({"bob": "new"})):
        with pytest.raises(RuntimeError, match="no server is attached to this control yet"):
            await use()  # type: ignore[misc]  # its default binds the loop's variable
    with pytest.raises(trioanytls.NotRunningError):
        control.replace_certificate("none.pem")


async def test_a_control_is_for_one_call_of_serve_workers_at_a_time(tasks: Tasks) -> None:
    async with running_workers(serves) as control:
        with pytest.raises(RuntimeError, match="in use by another server"):
            await trioanytls.serve_workers(serves, 0, control=control)


# Both controls


class Settings(NamedTuple):
    certificate: Path
    server_context: ssl.SSLContext


@contextlib.asynccontextmanager
async def controlled_server(settings: Settings) -> AsyncIterator[Control]:
    control = ServerControl()
    serve = functools.partial(trioanytls.serve, echo, 0, host=HOST, users=USERS, control=control)
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(serve, ssl_context=settings.server_context))
        yield control


@contextlib.asynccontextmanager
async def controlled_workers(_settings: Settings) -> AsyncIterator[Control]:
    async with running_workers(serves, workers=2) as control:
        yield control


@pytest.mark.parametrize("start", [controlled_server, controlled_workers])
async def test_a_program_can_use_either_control(
    tasks: Tasks,
    start: Callable[[Settings], AbstractAsyncContextManager[Control]],
    certificate: Path,
    server_context: ssl.SSLContext,
) -> None:
    async with start(Settings(certificate, server_context)) as control:
        assert control.running
        control.replace_users({"bob": "new"})
        with pytest.raises(ValueError, match="user"):
            control.replace_users({})
        control.replace_certificate(certificate, None, None)
        with pytest.raises(FileNotFoundError):
            control.replace_certificate(certificate.with_name("missing.pem"))
        assert isinstance(control.snapshot(), ServerStats)
        exact = await control.refresh()
        assert control.snapshot() == exact
        await control.drain(5)
        assert not control.running
        assert control.snapshot().connections == 0


def test_both_controls_have_the_same_methods() -> None:
    def public(control: type) -> dict[str, bool]:
        return {
            name: inspect.iscoroutinefunction(member)
            for name, member in inspect.getmembers(control)
            if not name.startswith("_")
        }

    assert public(ServerControl) == public(WorkersControl) == public(Control)
    for name in public(Control):
        if name != "running":
            expected = inspect.signature(getattr(Control, name)).parameters
            for control in (ServerControl, WorkersControl):
                parameters = inspect.signature(getattr(control, name)).parameters
                assert {key: parameters[key].default for key in expected} == {
                    key: parameter.default for key, parameter in expected.items()
                }
