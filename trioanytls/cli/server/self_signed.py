"""What `--self-signed` keeps: a certificate that is made once, and a password where nobody has given one.

What clients know of the server is its key. So it stays when the certificate is made anew, before it expires.
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

#: The key and the certificate: one file, so that there are never two that do not belong together.
FILE: Final = "self-signed.pem"
PASSWORD_FILE: Final = "password"  # noqa: S105 - the name of a file

_DAYS: Final = 3650
_RENEW_BEFORE: Final = dt.timedelta(days=30)


def keep_certificate(state: StateDirectory, host: str) -> CertificateFiles:
    """The certificate that is kept; made first where there is none.

    Raises:
      StateError: it cannot be kept.
    """
    files = CertificateFiles(state.path / FILE)
    pem = state.read(FILE)
    key = None
    if pem is not None:
        try:
            expiry = files.check().expiry
        except CertificateFilesError as error:
            raise StateError(f"{error}; remove it, and it is made anew, with another pin") from error
        if expiry - dt.datetime.now(dt.UTC) > _RENEW_BEFORE:
            return files
        key = serialization.load_pem_private_key(pem, None)
    made = make_certificate(
        host, days=_DAYS, name=host, key=key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    )
    state.write(FILE, made.key + made.certificate)
    return files


def keep_password(state: StateDirectory) -> str:
    """The password that is kept; made first where there is none.

    Raises:
      StateError: it cannot be kept.
    """
    kept = state.read(PASSWORD_FILE)
    if kept is None:
        kept = secrets.token_urlsafe(24).encode("ascii") + b"\n"
        state.write(PASSWORD_FILE, kept)
    password = kept.decode("utf-8", "replace").strip()
    if not password:
        raise StateError(f"{state.path / PASSWORD_FILE} is empty: remove it, and it is made anew")
    return password
