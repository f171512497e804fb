"""The prerequisites of the processes: a certificate, and virtual environments for some peers.

`libp2p` has many dependencies and pins some, so it gets a separate virtual environment, created once and kept in the
output directory. If that fails, its peers are reported as not installed, with the reason.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import trustme

from .peer import HOST, SERVER_NAME, Credentials

OUTPUT = Path(__file__).parent / "output"
"""The directory of results and environments, outside of version control."""

INSTALL_LIMIT = 300.0


class NotInstalled(Exception):
    """An environment could not be created. The message gives the reason."""


def make_credentials(directory: Path) -> Credentials:
    """Write a certificate authority and a server's certificate to files in a directory."""
    authority = trustme.CA()
    server = authority.issue_cert(SERVER_NAME, HOST)
    paths = [directory / name for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    paths[1].write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(paths[2])
    return Credentials(*map(str, paths))


def requirements(environment: str) -> Path:
    """Return the requirements file of an environment."""
    return Path(__file__).parent / f"requirements-{environment}.txt"


def make_environment(environment: str) -> str:
    """Create an environment unless it exists. Return the path of its Python."""
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
        raise NotInstalled(lines[-1] if lines else f"pip failed with exit code {error.returncode}") from error
    stamp.write_text(wanted, encoding="utf-8")
    return str(python)


def _commit() -> str:
    """Return the commit that is measured, with a plus sign if files were changed since."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def describe() -> dict[str, str]:
    """Describe the machine, the commit and the versions, for the JSON."""
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
        "commit": _commit(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        **versions,
    }
