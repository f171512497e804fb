"""The limit on open files of the process. Each connection of the relay uses one or two."""

from __future__ import annotations

import contextlib
from typing import Final

#: The highest limit that is requested: without any limit, some systems allocate tables for all descriptors.
MAX_OPEN_FILES: Final = 65_536


def raise_file_limit(maximum: int = MAX_OPEN_FILES) -> None:
    """Raise the soft limit of this process to the hard limit, but not above `maximum`. It is never lowered.

    The soft limit is commonly 1,024, because of programs that use `select`. A client alone can have 1,024 streams.
    """
    try:
        import resource
    except ImportError:
        # This system has no such limits.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    new = maximum if hard == resource.RLIM_INFINITY else min(hard, maximum)
    if soft != resource.RLIM_INFINITY and soft < new:
        # A system that rejects the limit anyway does not keep the command from starting.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
