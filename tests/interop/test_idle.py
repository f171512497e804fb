"""A pair works after a long silence. The program that shows it runs while the other tests do."""

from __future__ import annotations

import subprocess

from .idle import TIMEOUT


def test_pairs_work_after_a_silence(idle_program: subprocess.Popen[str] | None) -> None:
    assert idle_program is not None
    output, _ = idle_program.communicate(timeout=TIMEOUT)
    print(output)
    assert idle_program.returncode == 0, output
