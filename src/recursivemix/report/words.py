"""Format numbers, intervals and verdicts as text."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from recursivemix.data.printable import counted

from .statistics import LEAST_SEEDS, MOST_SEEDS
from .table import settled

NOTHING = "-"
"""Printed for a missing value."""


def number(value: float | None, places: int) -> str:
    """Format a value; a dash if it is missing or not finite."""
    return NOTHING if value is None or not isfinite(value) else f"{value:.{places}f}"


def with_interval(summary: dict[str, Any] | None, places: int, sign: str = "", between: str = " ") -> str:
    """Format a mean and, if there is one, its interval."""
    if summary is None:
        return NOTHING
    mean = f"{summary['mean']:{sign}.{places}f}"
    if summary["low"] is None:
        return mean
    return f"{mean}{between}({summary['low']:{sign}.{places}f} to {summary['high']:{sign}.{places}f})"


def p_words(p: float | None) -> str:
    """Format a p-value; small ones as a limit."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(pair: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Say whether a difference is shown, and how many seeds would show it."""
    needed = f"{counted(pair['n'], 'seed')}, {LEAST_SEEDS} are needed"
    if pair["low"] is None:
        return f"not known: {needed}"
    excluded = pair["low"] > 0 or pair["high"] < 0
    direction = "better" if (pair["mean"] > 0) == about["higher_is_better"] else "worse"
    if pair.get("uncertainty") == "images":
        return f"{direction} with this seed; other seeds may differ" if excluded else "not shown: one seed"
    if settled(pair):
        return direction
    if excluded:
        return (
            f"not shown: {'not significant after the correction' if pair['n'] >= LEAST_SEEDS else needed}"
        )
    if pair["seeds_needed"]:
        more = counted(pair["seeds_needed"] - pair["n"], "more seed")
        return f"not shown; {more} would show a difference of this size"
    images = " or more test images" if pair.get("uncertainty") == "seeds and images" else ""
    return f"not shown; more than {MOST_SEEDS} seeds{images} would be needed"


def interval(pair: dict[str, Any]) -> str:
    """Format the interval of a difference."""
    over = " over test images alone:" if pair.get("uncertainty") == "images" else ""
    return f"95 % interval{over} {pair['low']:+.2f} to {pair['high']:+.2f}"


def heading(name: str) -> str:
    """Start a name with a capital, unless its first word has capitals of its own, such as mIoU."""
    return name[:1].upper() + name[1:] if name.partition(" ")[0].islower() else name


def listed(labels: list[str]) -> str:
    """Join labels as in a sentence."""
    if len(labels) < 2:
        return "".join(labels)
    return f"{', '.join(labels[:-1])} and {labels[-1]}"


def at(value: Any, *path: str | int) -> Any:
    """Return what a record holds at a path of keys and indices; None if a part of it is missing."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, TypeError, IndexError):
            return None
    return value


def mean_of(method: dict[str, Any], *path: str | int) -> float | None:
    """Return the mean over those runs of a method that have a value at ``path``."""
    values = [value for run in method["runs"] if (value := at(run, *path)) is not None]
    return sum(values) / len(values) if values else None
