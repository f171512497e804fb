"""Fixtures that replace the processes of workers by tasks."""

from __future__ import annotations

import pytest
import trio

from trioanytls._workers import child, supervisor

from ..helpers.worker_tasks import Server, Tasks


@pytest.fixture
async def tasks(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    made = Tasks(nursery)
    monkeypatch.setattr(supervisor, "WorkerProcess", made)

    async def no_signals(self: object, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    # Only one task of a process can receive a signal.
    monkeypatch.setattr(child.WorkerMain, "_handle_sigterm", no_signals)
    return made


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    monkeypatch.setattr(Server, "told", [])
    return Server.told
