"""The answer of a comparison, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recursivemix.data.printable import counted
from recursivemix.report.pairs import PerImageReader, Runs, compare_two
from recursivemix.report.statistics import LEAST_SEEDS
from recursivemix.report.table import settled
from recursivemix.report.words import interval, listed


def answer(comparison: dict[str, Any], runs: dict[str, Runs], per_image: PerImageReader) -> str:
    """Say which method has the highest score, and how certain that is.

    Args:
        comparison: the content of ``comparison.json`` with its ``pairs``.
        runs: the runs of each method by label and seed.
        per_image: reads a metric image by image.
    """
    reference, score = comparison["baseline"], comparison["score"]
    pairs = [pair for pair in comparison["pairs"] if pair["metric"] == score]
    name, where = score_name(comparison), place(comparison)
    if not pairs:
        return (
            f"Nothing can be compared yet {where}: no seed has the {name} of both {reference} and another "
            f"method."
        )
    too_few = [pair["method"] for pair in pairs if pair["n"] < LEAST_SEEDS]
    pairs = [pair for pair in pairs if pair["n"] >= LEAST_SEEDS] or pairs
    best = max(pairs, key=lambda pair: float(pair["mean"]))
    if best["n"] < LEAST_SEEDS:
        known = "" if best["low"] is None else f" ({interval(best)})"
        return (
            f"{counted(best['n'], 'seed')} cannot show a difference of methods {where}: the highest other "
            f"{name} is {best['method']}'s, {best['mean']:+.2f} points from {reference}'s{known}; run at "
            f"least --seeds {LEAST_SEEDS}."
        )
    better = [pair for pair in pairs if settled(pair) and pair["mean"] > 0]
    worse = [pair["method"] for pair in pairs if settled(pair) and pair["mean"] < 0]
    if better:
        first = max(better, key=lambda pair: float(pair["mean"]))
        sentence = (
            f"{first['method']} has a higher {name} than {reference} {where}, by {first['mean']:.2f} "
            f"points ({interval(first)}, {_strength(first)}){_rivals(first, pairs, runs, score, per_image)}"
        )
    else:
        sentence = (
            f"No method is shown to have a higher {name} than {reference} {where}: the largest difference "
            f"is {best['method']}'s, {best['mean']:+.2f} points ({interval(best)}, {_strength(best)})"
        )
        if best["mean"] > 0 and best["seeds_needed"]:
            sentence += f"; about {best['seeds_needed']} seeds would show a difference of this size"
    if worse:
        sentence += f"; {listed(worse)} {'has' if len(worse) == 1 else 'have'} a lower {name}"
    if too_few:
        sentence += f"; too few seeds of {listed(too_few)} are finished to compare"
    return f"{sentence}."


def score_name(comparison: dict[str, Any]) -> str:
    """Return the name of the score by which methods are compared, such as accuracy or box AP."""
    name = str(comparison["metrics"][comparison["score"]]["name"]).removesuffix(", last epoch")
    first, space, rest = name.partition(" ")
    return f"{first.lower()}{space}{rest}" if first.istitle() else name


def place(comparison: dict[str, Any]) -> str:
    """Return the data and the setting that the answer holds for."""
    data = comparison["data"]
    task = "" if comparison["task"] == "classification" else f"{comparison['task']}, "
    return (
        f"on {Path(data['name']).name} ({task}{data['train_images']:,} training images, "
        f"{comparison['model']}, {counted(comparison['epochs'], 'epoch')})"
    )


def _strength(pair: dict[str, Any]) -> str:
    images = f", {pair['images']:,} test images" if pair["images"] else ""
    return f"{counted(pair['n'], 'seed')}{images}, corrected p {pair['p_corrected']:.2g}"


def _rivals(
    first: dict[str, Any],
    pairs: list[dict[str, Any]],
    runs: dict[str, Runs],
    score: str,
    per_image: PerImageReader,
) -> str:
    """Name the methods that the best one is not shown to differ from."""
    higher = [pair["method"] for pair in pairs if pair["mean"] > first["mean"]]
    close = []
    for label in (pair["method"] for pair in pairs if pair is not first):
        difference = compare_two(runs[first["method"]], runs[label], score, per_image=per_image)
        low, high = None, None
        if difference is not None and difference.n >= LEAST_SEEDS:
            low, high = difference.low, difference.high
        if label not in higher and (low is None or high is None or low <= 0 <= high):
            close.append(label)
    words = f"; no difference to {listed(close)} is shown" if close else ""
    if higher:
        words += f"; {listed(higher)} scored higher, but that is not shown to be more than chance"
    return words
