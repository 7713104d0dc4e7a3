"""Texts of strangers as a terminal may have them."""

from __future__ import annotations

import unicodedata

#: characters of a text that are enough to know it by
LIMIT = 400


def printable(text: str, limit: int = LIMIT) -> str:
    """A text from outside with what is no visible character escaped, and cut where it is longer than ``limit`` characters.

    Control characters would move the cursor or rename the window, a newline would begin a line that looks like ours.

    >>> print(printable("p1\\x1b[2J\\n\\u202e"), printable("x" * 20_000, 3))
    p1\\x1b[2J\\n\\u202e xxx... (20,000 characters)
    """
    shown = "".join(
        character if character == " " or unicodedata.category(character)[0] not in "CZ" else _escaped(character)
        for character in text[:limit]
    )
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
