"""Every module of the package has a file of tests about it, which its name leads to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
#: Modules without a file of their own name: the file that tests each. It imports the module or uses one of its public
#: names; if it reaches the module by public functions only, the row has a word of it that shows the subject.
TESTED_BY: dict[str, str | tuple[str, str]] = {
    "_client.connection": ("connection/test_connection.py", "wrap_client"),
    "_connection.close_reason": "connection/test_closing.py",
    "_connection.nursery": ("connection/test_cancellation.py", "CancelScope"),
    "_connection.observer": ("client/test_events.py", "ClientEvents"),
    "_connection.reader": ("connection/test_stall.py", "stall_timeout"),
    "_connection.stats": ("connection/test_connection.py", ".stats"),
    "_exceptions": "connection/test_failures.py",
    "_metrics_endpoint": ("project/test_metrics.py", "serve_metrics"),
    "_protocol.anytls1.base": "protocol/test_protocol.py",
    "_protocol.anytls1.client": "protocol/test_protocol.py",
    "_protocol.anytls1.server": "protocol/test_state_machine.py",
    "_protocol.anytls1.padding": "protocol/test_traffic_shaper.py",
    "_protocol.close_codes": "protocol/test_protocol.py",
    "_protocol.end": ("protocol/legacy/test_client.py", "max_idle_frames"),
    "_protocol.events": "protocol/test_protocol.py",
    "_protocol.incremental": ("protocol/legacy/test_frame_decoder.py", "progressed"),
    "_protocol.legacy.base": ("protocol/legacy/test_client.py", "can_ping"),
    "_protocol.legacy.states": ("protocol/legacy/test_server.py", "test_syn_before_settings"),
    "_protocol.limits": "connection/test_limits.py",
    "_protocol.server_end": ("protocol/legacy/test_server.py", "no user has this password"),
    "_public": "project/test_public_names.py",
    "_server.connection": "connection/test_limits.py",
    "_server.context": "connection/test_limits.py",
    "_server.serve": "server/test_server.py",
    "cli.bench.measure": "cli/test_bench.py",
    "cli.bench.options": "cli/test_bench.py",
    "cli.client.connectivity_check": "cli/test_client.py",
    "cli.client.front_ends": "transport/test_listeners.py",
    "cli.client.options": "cli/test_client_options.py",
    "cli.client.run": "cli/test_client_options.py",
    "cli.client.settings": "cli/test_client_options.py",
    "cli.common.errors": "cli/test_logging.py",
    "cli.common.extras": ("cli/test_main.py", "without_the_extra"),
    "cli.common.runner": "cli/test_demo.py",
    "cli.common.server_uri": ("cli/test_client_options.py", "--server-file"),
    "cli.demo.fetch": "cli/test_demo_fetch.py",
    "cli.demo.options": "cli/test_demo.py",
    "cli.demo.progress": ("cli/test_demo.py", "progress"),
    "cli.demo.python_files": "cli/test_demo.py",
    "cli.demo.report": "cli/test_demo.py",
    "cli.demo.results": "cli/test_demo_fetch.py",
    "cli.demo.upload": "cli/test_demo.py",
    "cli.scheme.load": ("cli/test_scheme.py", "scheme_file"),
    "cli.scheme.options": "cli/test_scheme.py",
    "cli.scheme.plot": ("cli/test_scheme.py", "--png"),
    "cli.scheme.table": "cli/test_scheme.py",
    "cli.server.options": "cli/test_server.py",
    "cli.server.processes": ("cli/test_server.py", "--workers"),
    "cli.server.run": "cli/test_server_start.py",
    "cli.server.settings": "cli/test_server_settings.py",
    "contrib.httpcore": "integration/test_contrib_httpcore.py",
    "relay.dial": "relay/test_handler.py",
    "relay.errors": ("relay/test_front_end.py", "ExceptionGroup"),
    "relay.http_bodies": "relay/test_http_messages.py",
    "relay.http_forward": "relay/test_http_messages.py",
    "relay.http_heads": "relay/test_http_messages.py",
    "relay.logging": ("relay/test_handler.py", '"trioanytls.relay"'),
    "relay.port_forward": "relay/test_http_proxy.py",
    "relay.proxy_users": "relay/test_socks5.py",
    "relay.refusals": "relay/test_handler.py",
    "relay.reply_codes": "relay/test_socks5.py",
    "relay.socks_proxy": "relay/test_socks_udp.py",
    "relay.speed_test": "cli/test_bench.py",
    "relay.udp_hosts": "relay/test_udp_relay.py",
}


def modules() -> list[str]:
    """Return the modules of the package by their names below `trioanytls`, without those that only start or export."""
    package = ROOT / "trioanytls"
    names = [path.relative_to(package).with_suffix("") for path in sorted(package.rglob("*.py"))]
    return [".".join(name.parts) for name in names if name.name not in {"__init__", "__main__", "_version"}]


def own_test(module: str) -> Path:
    """Return the file that a module's name leads to: `_server.control` is tested by tests/server/test_control.py.

    A package below that of a layer may have a directory of its own among the tests. Modules of the top level are tested
    in tests/project.
    """
    *packages, name = module.split(".")
    directory = TESTS / (packages[0].strip("_") if packages else "project")
    own = directory.joinpath(*packages[1:])
    return (own if own.is_dir() else directory) / f"test_{name.strip('_')}.py"


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_tests(module: str) -> None:
    if own_test(module).exists():
        assert module not in TESTED_BY, "it has a file of its own"
        return
    assert module in TESTED_BY, f"no {own_test(module).relative_to(ROOT)}, and no row in TESTED_BY"
    row = TESTED_BY[module]
    file, subject = (row, mention(module)) if isinstance(row, str) else (row[0], re.escape(row[1]))
    assert re.search(subject, (TESTS / file).read_text(encoding="utf-8")), f"{file} does not mention {subject}"


def mention(module: str) -> str:
    """Return a pattern for a module's import, or for one of its public names."""
    package, _, name = f"trioanytls.{module}".rpartition(".")
    source = (ROOT / "trioanytls" / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node.name for node in ast.parse(source).body if isinstance(node, kinds) and node.name[0] != "_"]
    imported = rf"{re.escape(package)}(?:\.{name}\b| import [^\n]*\b{name}\b)"
    return "|".join([imported, *(rf"\b{one}\b" for one in public)])


def test_each_row_is_a_module() -> None:
    assert set(TESTED_BY) <= set(modules())
