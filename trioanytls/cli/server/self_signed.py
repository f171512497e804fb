"""The certificate and the password that `--self-signed` generates once and keeps in the state directory.

Clients identify the server by its key, so a certificate that is about to expire is renewed with the same key.
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.common.state_dir import StateDirectory, StateError

from .certificate_files import CertificateFiles, CertificateFilesError

#: The key and the certificate. They are in one file, so that they always match.
FILE: Final = "self-signed.pem"
PASSWORD_FILE: Final = "password"  # noqa: S105 - the name of a file

_DAYS: Final = 3650
_RENEW_BEFORE: Final = dt.timedelta(days=30)


def keep_certificate(state: StateDirectory, host: str) -> CertificateFiles:
    """Return the certificate in the state directory. Generate it if there is none, and renew it before it expires.

    Raises:
      StateError: it cannot be read, is invalid, or cannot be written.
    """
    files = CertificateFiles(state.path / FILE)
    pem = state.read(FILE)
    key = None
    if pem is not None:
        try:
            expiry = files.check().expiry
        except CertificateFilesError as error:
            raise StateError(f"{error}; delete it to have it regenerated, with another pin") from error
        if expiry - dt.datetime.now(dt.UTC) > _RENEW_BEFORE:
            return files
        key = serialization.load_pem_private_key(pem, None)
    made = make_certificate(
        host, days=_DAYS, name=host, key=key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    )
    state.write(FILE, made.key + made.certificate)
    return files


def keep_password(state: StateDirectory) -> str:
    """Return the password in the state directory. Generate it if there is none.

    Raises:
      StateError: it cannot be read, is empty, or cannot be written.
    """
    kept = state.read(PASSWORD_FILE)
    if kept is None:
        kept = secrets.token_urlsafe(24).encode("ascii") + b"\n"
        state.write(PASSWORD_FILE, kept)
    password = kept.decode("utf-8", "replace").strip()
    if not password:
        raise StateError(f"{state.path / PASSWORD_FILE} is empty: delete it to have it regenerated")
    return password
