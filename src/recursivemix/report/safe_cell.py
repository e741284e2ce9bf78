"""Keep spreadsheets from evaluating text in CSV files."""

from __future__ import annotations

import unicodedata
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a formula; full-width forms count too."""


def safe_cell(value: Any) -> Any:
    """Return a CSV cell; text that a spreadsheet would evaluate gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if unicodedata.normalize("NFKC", value.lstrip(" "))[:1] in FORMULA else value
