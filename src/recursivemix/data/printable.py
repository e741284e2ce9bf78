"""Text for people: without hidden characters, in one line, with counts and short lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Controls except tab and newline, marks of the writing direction, and halves of letters."""


def printable(text: str) -> str:
    """Return a text with U+FFFD, the replacement character, for each hidden one."""
    return HIDDEN.sub("\ufffd", text)


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can encode: bytes of a file name that are none become ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(error: Exception) -> str:
    """Return the message of an error in one line; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with a noun, in the plural where needed."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def first_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Return where two lists of as many names differ, after a semicolon; else nothing."""
    pairs = enumerate(zip(names, others, strict=False))
    different = next(((k, *pair) for k, pair in pairs if pair[0] != pair[1]), None)
    if different is None or len(names) != len(others):
        return ""
    return "; class {} is {!r} in the first and {!r} in the second".format(*different)


def first_few(names: Iterable[str], most: int = 5) -> str:
    """Return the first of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
