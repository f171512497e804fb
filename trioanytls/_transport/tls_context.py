"""TLS contexts that allow TLS 1.3 and nothing less (spec: Connections)."""

from __future__ import annotations

import ssl


def require_tls13(context: ssl.SSLContext) -> ssl.SSLContext:
    """Raise the context's lowest version to TLS 1.3, in place.

    Raises:
      ValueError: the context forbids TLS 1.3.
    """
    if context.maximum_version not in (ssl.TLSVersion.MAXIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_3):
        raise ValueError(
            f"ANYTLS needs TLS 1.3 or higher; the ssl_context allows at most {context.maximum_version.name}"
        )
    if context.minimum_version != ssl.TLSVersion.TLSv1_3:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client_context(*, verify: bool = True) -> ssl.SSLContext:
    """What a client uses by default: the system's trust, the host name checked, TLS 1.3.

    Without `verify`, any certificate will do: where its key is pinned, or nobody cares.
    """
    if verify:
        return require_tls13(ssl.create_default_context())
    # Without the system's certificates, which take longer to load than a handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return require_tls13(context)
