"""Fixtures of the tests of the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Restore the logging settings that a command changes in this process."""
    logger = logging.getLogger("trioanytls")
    before = logger.level, logger.handlers[:], logging.raiseExceptions
    yield
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    logging.raiseExceptions = before[2]
