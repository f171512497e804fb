"""The README's example runs unchanged."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

README = Path(__file__).parent.parent.parent / "README.md"


def example(name: str) -> dict[str, Any]:
    """Return the names that the README's block defines."""
    blocks = re.findall(
        rf"<!-- example: {name} -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 1
    namespace: dict[str, Any] = {"__name__": f"readme_{name}"}
    exec(compile(blocks[0], f"README.md ({name})", "exec"), namespace)
    return namespace


async def test_the_example_runs(
    server_context: ssl.SSLContext, authority: trustme.CA, capsys: pytest.CaptureFixture[str]
) -> None:
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client_context)
    server, client = example("server"), example("client")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(server["serve_echo"], 0, server_context)
        await client["talk"](listeners[0].socket.getsockname()[1], client_context)
        nursery.cancel_scope.cancel()

    lines = capsys.readouterr().out.splitlines()
    # Trio chooses the task that opens its stream first.
    assert sorted(line.split(": ")[0] for line in lines) == ["stream 1", "stream 2", "stream 3"]
    assert {line.split(": ")[1] for line in lines} == {"Who is there?", "What is the time?", "How far is it?"}


def test_the_two_commands_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "python3 -m pip install nox && python3 -m nox -s demo" in text
    assert "python3 -m nox -s tests" in text


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_each_relative_link_leads_to_a_file(name: str) -> None:
    text = (README.parent / name).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert targets
    assert [target for target in targets if not (README.parent / target).is_file()] == []
