"""Fixtures of the tests of malicious peers."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import pytest
import trustme

from ._harness import Attack, Launcher


@pytest.fixture(scope="session")
def launcher(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    directory = tmp_path_factory.mktemp("malicious")
    files = {name: directory / f"{name}.pem" for name in ("certificate", "key", "authority")}
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["authority"])
    launcher = Launcher(directory, **files)
    yield launcher
    launcher.close()


@pytest.fixture
def attack(launcher: Launcher, client_context: ssl.SSLContext) -> Attack:
    return Attack(launcher, client_context)
