"""The results of the demo: those of the upload, and those of the fetches through each front end."""

from __future__ import annotations

from attrs import define, field

from trioanytls import ConnectionStats


@define
class Outcome:
    """The result of an upload.

    Attributes:
      files: the number of files with a matching digest.
      size: the size of these files in bytes.
      seconds: the time from the start of the connection to the last digest.
      unreadable: the files and directories that could not be read, with the reason.
      failed: the files whose digest was wrong or missing, with the reason.
      stats: the statistics of the client's connection at its end.
    """

    files: int = 0
    size: int = 0
    seconds: float = 0.0
    unreadable: list[str] = field(factory=list)
    failed: list[str] = field(factory=list)
    stats: ConnectionStats | None = None


@define
class Fetched:
    """The result of the fetches through one front end.

    Attributes:
      how: the program and the front end, for people.
      files, size: the number of files with a matching digest, and their size in bytes.
      seconds: the time of all fetches.
      failed: the files that could not be fetched, with the reason.
    """

    how: str
    files: int = 0
    size: int = 0
    seconds: float = 0.0
    failed: list[str] = field(factory=list)
