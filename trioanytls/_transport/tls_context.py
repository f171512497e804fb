"""TLS contexts that allow no version below TLS 1.3 (spec: Connections)."""

from __future__ import annotations

import ssl


def require_tls13(context: ssl.SSLContext) -> ssl.SSLContext:
    """Raise the minimum version of `context` to TLS 1.3, in place, and return it.

    Raises:
      ValueError: the context forbids TLS 1.3.
    """
    if context.maximum_version not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        raise ValueError(
            f"ANYTLS requires TLS 1.3 or higher; the ssl_context allows at most {context.maximum_version.name}"
        )
    if context.minimum_version != ssl.TLSVersion.TLSv1_3:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client_context(*, verify: bool = True) -> ssl.SSLContext:
    """Create the default context of a client: the system's trust store, host name verification, TLS 1.3.

    Without `verify`, any certificate is accepted: the caller checks a pinned key, or disables verification.
    """
    if verify:
        return require_tls13(ssl.create_default_context())
    # Do not load the system's certificates, which takes longer than a handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return require_tls13(context)
