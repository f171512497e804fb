"""The configurations that a server prints for the clients of other programs, which use the wire format "legacy".

sing-box: https://sing-box.sagernet.org/configuration/outbound/anytls/, as of version 1.14.
mihomo: https://wiki.metacubex.one/en/config/proxies/anytls/.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from trioanytls import ServerURI

from .certificate_files import CertificateDescription

# The name of the entry if there is one user. Those of several users have the user's name after it.
_NAME: Final = "trioanytls"


def to_sing_box(servers: Mapping[str, ServerURI], _certificate: CertificateDescription) -> str:
    """Return a configuration of sing-box with an outbound for each user, in JSON. The pin needs sing-box 1.13.

    Args:
      servers: name of the user -> the server.
    """
    outbounds: list[dict[str, Any]] = []
    for name, server in _entries(servers).items():
        tls: dict[str, Any] = {"enabled": True, "server_name": server.sni or server.host}
        if server.pin is not None:
            # The certificate is then identified by its key alone, as by the pin of a URI.
            pin = base64.b64encode(bytes.fromhex(server.pin)).decode("ascii")
            tls["certificate_public_key_sha256"] = [pin]
        outbounds.append(
            {
                "type": "anytls",
                "tag": name,
                "server": server.host,
                "server_port": server.port,
                "password": server.password,
                "tls": tls,
            }
        )
    return json.dumps({"outbounds": outbounds}, indent=2)


def to_mihomo(servers: Mapping[str, ServerURI], certificate: CertificateDescription) -> str:
    """Return a configuration of mihomo with a proxy for each user, in YAML.

    Args:
      servers: name of the user -> the server.
      certificate: the server's certificate.
    """
    lines = ["proxies:"]
    for name, server in _entries(servers).items():
        fields: dict[str, str | int | bool] = {
            "name": name,
            "type": "anytls",
            "server": server.host,
            "port": server.port,
            "password": server.password,
            "client-fingerprint": "chrome",
            "udp": True,
            "sni": server.sni or server.host,
            "skip-cert-verify": False,
        }
        if server.pin is not None:
            # That of the certificate, not of its key. mihomo then checks nothing else.
            fields["fingerprint"] = certificate.fingerprint
        for index, (key, value) in enumerate(fields.items()):
            lines.append(f"{'    ' if index else '  - '}{key}: {_to_yaml(value)}")
    return "\n".join(lines)


#: The forms of a configuration, by the program that reads it.
FORMS: Final[Mapping[str, Callable[[Mapping[str, ServerURI], CertificateDescription], str]]] = {
    "sing-box": to_sing_box,
    "mihomo": to_mihomo,
}


def _entries(servers: Mapping[str, ServerURI]) -> dict[str, ServerURI]:
    """Name the entries. The names of users differ, and so do those of the entries."""
    return {_NAME if len(servers) == 1 else f"{_NAME}-{user}": server for user, server in servers.items()}


def _to_yaml(value: str | float | bool) -> str:
    """Format a scalar. A string in JSON is one in YAML, except for surrogate pairs."""
    if not isinstance(value, str):
        return json.dumps(value)
    escaped = (f"\\U{ord(one):08x}" if one > "\uffff" else json.dumps(one)[1:-1] for one in value)
    return f'"{"".join(escaped)}"'
