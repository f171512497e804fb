"""Text that a peer may have written, made fit for a line of a log, an error and a terminal."""

from __future__ import annotations

#: How much of such a text is shown, in characters.
MAX_TEXT = 512


def one_line(text: str, limit: int | None = MAX_TEXT) -> str:
    r"""Return `text` as one line of printable characters, for a log or a terminal.

    Line ends (also those of Unicode), control characters, escape sequences of terminals, characters that turn the
    direction of writing, invisible and unassigned ones are written as Python writes them in a string: `\n`, `\x1b`,
    `\u202e`.

    Args:
      text: a text that somebody else has written.
      limit: how many of its characters are kept; an ellipsis stands for the others. None for all.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
