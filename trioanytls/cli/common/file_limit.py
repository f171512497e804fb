"""The number of files that a process may have open: each connection of the relay takes one or two."""

from __future__ import annotations

import contextlib
from typing import Final

#: The most that is asked for: some systems have no limit, and then make tables for each number.
MOST_FILES: Final = 65_536


def raise_file_limit(most: int = MOST_FILES) -> None:
    """Raise the soft limit of this process to the hard one, and to `most` at most. It is never lowered.

    The soft limit is commonly 1,024, for the sake of programs that use `select`. A client alone can have 1,024 streams.
    """
    try:
        import resource
    except ImportError:
        # A system without such limits.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # What the system does not allow all the same is no reason not to start.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
