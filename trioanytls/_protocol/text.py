"""Escaping text from a peer, so that it is safe in a log line, an error and on a terminal."""

from __future__ import annotations

#: The maximum length of such a text, in characters.
MAX_TEXT = 512


def one_line(text: str, limit: int | None = MAX_TEXT) -> str:
    r"""Return `text` as one line of printable characters, for a log or a terminal.

    Line ends (including those of Unicode), control characters, terminal escape sequences, characters that change the
    writing direction, and invisible and unassigned characters are escaped as in a Python string: `\n`, `\x1b`,
    `\u202e`.

    Args:
      text: a text from an untrusted source.
      limit: the number of characters to keep; an ellipsis replaces the others. None for all.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
