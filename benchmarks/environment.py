"""What the processes need before they start: a certificate made on the spot, and environments for some peers.

`libp2p` brings many packages and pins some, so it gets a virtual environment of its own, made once and kept in the
output directory. Where it cannot be made, its peers are reported as not installed, and why.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import trustme

from .peer import HOST, SERVER_NAME, Credentials

OUTPUT = Path(__file__).parent / "output"
"""Where results and environments are kept, out of version control."""

INSTALL_LIMIT = 300.0


class NotInstalled(Exception):
    """An environment could not be made; the message says why."""


def make_credentials(directory: Path) -> Credentials:
    """A certificate authority and a server's certificate, written to files in a directory."""
    authority = trustme.CA()
    server = authority.issue_cert(SERVER_NAME, HOST)
    paths = [directory / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    paths[1].write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(paths[2])
    return Credentials(*map(str, paths))


def requirements(environment: str) -> Path:
    """The requirements file of an environment."""
    return Path(__file__).parent / f"requirements-{environment}.txt"


def make_environment(environment: str) -> str:
    """Make an environment, or find it made; the path of its Python."""
    directory = OUTPUT / f"env-{environment}"
    python = directory / "bin" / "python"
    wanted = requirements(environment).read_text(encoding="utf-8")
    stamp = directory / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted and python.exists():
        return str(python)
    try:
        venv.create(directory, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--requirement", requirements(environment)],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"installing took more than {INSTALL_LIMIT:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in str(error.stderr or "").splitlines() if line.startswith("ERROR")]
        raise NotInstalled(lines[-1] if lines else f"pip has failed with {error.returncode}") from error
    stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def describe() -> dict[str, str]:
    """The machine and the versions, for the JSON."""
    import os
    import platform
    import ssl
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("trio", "trioanytls", "h2"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        **versions,
    }
