"""No kind of work has become dearer: in function calls, task steps, passes of the event loop, or memory.

See the package's docstring about how to find the reason, and how to change the bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ._bounds import (
    LEEWAY,
    PYTHON,
    RUNS,
    Costs,
    bounds,
    chosen,
    costs_of,
    differences,
    key_of,
    least,
    memory_of,
    table,
    table_of_page,
)
from ._ends import Setting
from ._works import HOLDINGS, WORKS, Work

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the numbers are those of Linux, of its sockets above all"
)

#: The share by which the counts of large transfers over sockets may exceed their bounds: how a kernel cuts data into
#: pieces depends on its version, and a bound is of one machine.
KERNEL_SLACK = 0.03
UPDATE = "python -m tests.performance --update"


def pairs(works: tuple[Work, ...]) -> list[object]:
    """Return the parameters of a test: each work with each of its settings."""
    return [pytest.param(work, setting, id=key) for key, work, setting in chosen(works, "")]


def check(work: Work, setting: Setting, measure: Callable[[Work, Setting], Costs], slack: float = 0) -> None:
    key = key_of(work, setting)
    bound, measured = bounds()[key], measure(work, setting)
    most = {name: cost * (1 + slack) for name, cost in bound.items()}
    dearer = differences(measured, most)[0]
    for _ in range(RUNS - 1):
        if dearer:
            measured = least(measured, measure(work, setting))
            dearer = differences(measured, most)[0]
    see = f'see where: python -m tests.performance "{key}" --where; if it is worth it: {UPDATE}'
    assert not dearer, "\n".join((f"{key}: dearer for each unit ({work.unit})", *dearer, see))
    # A bound that is too high hides the next change.
    cheaper = differences({name: cost * (1 + LEEWAY + slack) for name, cost in measured.items()}, bound)[1]
    assert not cheaper, "\n".join((f"{key}: the bounds are too high now", *cheaper, UPDATE))


@pytest.mark.parametrize(("work", "setting"), pairs(WORKS))
def test_no_work_has_become_dearer(work: Work, setting: Setting) -> None:
    # Those that need grown windows transfer much.
    check(work, setting, costs_of, KERNEL_SLACK if work.warm_up > work.units and setting.tls else 0)


@pytest.mark.skipif(not sys.version.startswith(f"{PYTHON}."), reason="the sizes of objects are those of one Python")
@pytest.mark.parametrize(("work", "setting"), pairs(HOLDINGS))
def test_nothing_takes_more_memory(work: Work, setting: Setting) -> None:
    check(work, setting, memory_of)


def test_the_page_has_the_bounds() -> None:
    assert table_of_page() == table(), UPDATE


def test_each_bound_is_of_a_work() -> None:
    assert list(bounds()) == [key for key, _, _ in chosen((*WORKS, *HOLDINGS), "")]
