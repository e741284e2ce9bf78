"""Numbers of a comparison in words: what a table's cells and an answer's sentence say."""

from __future__ import annotations

from math import isfinite
from typing import Any

from .table import settled

NOTHING = "-"
"""In the place of a value that there is none of."""


def number(value: float | None, places: int) -> str:
    """A value with so many digits after the point; a dash for none."""
    return NOTHING if value is None or not isfinite(value) else f"{value:.{places}f}"


def with_interval(found: dict[str, Any] | None, places: int, sign: str = "", between: str = " ") -> str:
    """A mean and its interval."""
    if found is None:
        return NOTHING
    mean = f"{found['mean']:{sign}.{places}f}"
    if found["low"] is None:
        return mean
    return f"{mean}{between}({found['low']:{sign}.{places}f} to {found['high']:{sign}.{places}f})"


def p_words(p: float | None) -> str:
    """A p-value; small ones only as small."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(pair: dict[str, Any], about: dict[str, Any]) -> str:
    """What a difference says, and what would settle it."""
    if pair["low"] is None:
        return "one seed: not known"
    if settled(pair):
        return "better" if (pair["mean"] > 0) == about["higher_is_better"] else "worse"
    if pair["low"] > 0 or pair["high"] < 0:
        return "not shown: its p-value does not survive the correction"
    if pair["seeds_needed"]:
        more = pair["seeds_needed"] - pair["n"]
        return f"not shown; {more} more {'seed' if more == 1 else 'seeds'} would settle it, if it stays so"
    return "not shown; more than 1000 seeds would be needed"


def interval(pair: dict[str, Any]) -> str:
    """A pair's interval in words."""
    return f"95 % interval {pair['low']:+.2f} to {pair['high']:+.2f}"


def listed(labels: list[str]) -> str:
    """Labels as part of a sentence."""
    if len(labels) < 2:
        return "".join(labels)
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


def at(value: Any, *path: str | int) -> Any:
    """What is in a record at a path of keys and places; None for a part that a run was not measured by."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, TypeError, IndexError):
            return None
    return value


def mean_of(method: dict[str, Any], *path: str | int) -> float | None:
    """The mean over a method's runs that have the value at ``path``."""
    values = [found for run in method["runs"] if (found := at(run, *path)) is not None]
    return sum(values) / len(values) if values else None
