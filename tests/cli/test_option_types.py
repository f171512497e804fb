"""The types of options."""

import pytest

from trioanytls.cli.common import option_types


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("[::]:443", "::", 443, "[::]:443"),
        ("localhost:0", "localhost", 0, "localhost:0"),
        (":8443", None, 8443, "*:8443"),
        ("*:8443", None, 8443, "*:8443"),
        ("8443", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("0", "127.0.0.1", 0, "127.0.0.1:0"),
    ],
)
def test_listen_address(text: str, host: str | None, port: int, shown: str) -> None:
    address = option_types.ListenAddress.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1080", "127.0.0.1:1080"),
        (":1080", "127.0.0.1:1080"),
        ("*:1080", "*:1080"),
        ("0.0.0.0:1080", "0.0.0.0:1080"),
        ("[::1]:1080", "[::1]:1080"),
    ],
)
def test_listen_address_of_a_front_end(text: str, shown: str) -> None:
    """A port without a host never means all addresses."""
    assert str(option_types.ListenAddress.parse_local(text)) == shown


@pytest.mark.parametrize("text", ["65536", ":65536", "-1", "+80", "\u0661", "1_0"])
def test_invalid_port_alone(text: str) -> None:
    for parse in (option_types.ListenAddress.parse, option_types.ListenAddress.parse_local):
        with pytest.raises(ValueError, match="port"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ()),
        ("fin", ("fin",)),
        ("window, reset,fin,fin", ("fin", "reset", "window")),
        ("fin,goaway,reset,window", ("fin", "goaway", "reset", "window")),
    ],
)
def test_extensions(text: str, names: tuple[str, ...]) -> None:
    assert option_types.parse_extensions(text) == names


@pytest.mark.parametrize("text", ["", "Fin", "fin,", "fin none", "none,fin", "all"])
def test_unknown_extensions(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown extension '.*': expected some of fin, goaway, reset, window; or none"
    ):
        option_types.parse_extensions(text)


@pytest.mark.parametrize("text", ["", "*", "localhost", "::1:80", "*:65536", ":x", "a b:1"])
def test_invalid_listen_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port|host|colon"):
        option_types.ListenAddress.parse(text)
