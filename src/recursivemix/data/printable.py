"""Text from data as people may see it: no control characters, and none that change the order of letters."""

from __future__ import annotations

import re

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
