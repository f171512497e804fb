"""The results of the demo: of the upload, and of each way to fetch."""

from __future__ import annotations

from attrs import define, field

from trioanytls import ConnectionStats


@define
class Outcome:
    """How an upload went.

    Attributes:
      files: how many files arrived, the digest as it should be.
      size: how many bytes those had.
      seconds: from the connection's start to the last digest.
      unreadable: files and directories that could not be read, with the reason.
      failed: files whose digest was wrong, or did not come, with the reason.
      stats: the counters of the client's connection at its end.
    """

    files: int = 0
    size: int = 0
    seconds: float = 0.0
    unreadable: list[str] = field(factory=list)
    failed: list[str] = field(factory=list)
    stats: ConnectionStats | None = None


@define
class Fetched:
    """One way to fetch, and what came of it.

    Attributes:
      how: the way, for people.
      files, size: how many files came with the right digest, and their bytes.
      seconds: how long it took.
      failed: what did not, with the reason.
    """

    how: str
    files: int = 0
    size: int = 0
    seconds: float = 0.0
    failed: list[str] = field(factory=list)
