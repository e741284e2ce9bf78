"""Tell from a network's accuracy on its training images whether mixing is likely to help.

``memorization.json`` holds what this project measured; ``docs/make_tables.py`` writes it from ``results/``.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

MEMORIZED = 99.0
"""Accuracy on unmixed training images, in percent, from which a network has memorized them."""
UNDERFIT = 95.0
"""Below this the network has not fit its training images."""
GUIDE = "docs/guides/when.md"
CAUTION = (
    f"  (accuracy minus that without mixing, in points, with its 95 % interval from three seeds on; it may "
    f"differ for your data and network: {GUIDE})"
)


def fit_level(train_accuracy: float) -> str:
    """Return how far a network has fit its training images, from its accuracy on them in percent."""
    if train_accuracy >= MEMORIZED:
        return "memorized"
    return "nearly memorized" if train_accuracy >= UNDERFIT else "underfit"


def mixing_advice(train_accuracy: float, mixer: str, fine_tuned: bool) -> list[str]:
    """Return what the fit of the training images suggests about mixing, in lines; see docs/guides/when.md.

    A run that mixes predicts fewer of its training images, also where mixing helps. So only a run without
    mixing, or one that memorizes in spite of it, is compared with what was measured.

    Args:
        train_accuracy: accuracy on unmixed training images at the end of training, in percent.
        mixer: mixing method of the run.
        fine_tuned: whether training started from trained weights.
    """
    seen = f"{train_accuracy:.1f} % of the training images are predicted without mixing"
    level = fit_level(train_accuracy)
    if mixer != "none" and level != "memorized":
        return [
            f"{seen}, after training with {mixer}: only a run with --mixer none tells whether mixing is "
            f"likely to help. If that predicts less than {UNDERFIT:g} %, mix less "
            f"(--mixer-options.prob 0.5, --mix-stop), train longer, or use a larger network"
        ]
    advice = {
        "memorized": "they are memorized, and mixing may help in a longer run (--mixer cutmix first)",
        "nearly memorized": "nearly memorized; a comparison with mixing tells whether it helps here",
        "underfit": "the network underfits; train longer or use a larger one before mixing",
    }[level]
    if mixer != "none":
        advice = "the network has room for this mixing"
    return [f"{seen}: {advice}", *measured_at(train_accuracy, fine_tuned)]


@cache
def measured_comparisons() -> tuple[dict[str, Any], ...]:
    """Return the comparisons of methods with no mixing that this project made, with data and network."""
    return tuple(json.loads(Path(__file__).with_suffix(".json").read_text()))


def measured_at(train_accuracy: float, fine_tuned: bool) -> list[str]:
    """Return what this project measured where networks fit their training images as far, in lines.

    Args:
        train_accuracy: accuracy on unmixed training images, in percent. In a comparison it is that of the
            runs without mixing.
        fine_tuned: whether training starts from trained weights.
    """
    level = fit_level(train_accuracy)
    chosen = [
        one
        for one in measured_comparisons()
        if one["fine_tuned"] == fine_tuned and fit_level(one["train_accuracy"]) == level
    ]
    start = "fine-tuning" if fine_tuned else "training from scratch"
    if not chosen:
        return [f"this project has not compared methods for {start} at this fit; see {GUIDE}"]
    title = f"measured by this project, {start}, training images {level} without mixing"
    return [f"{title}:", *map(_line, chosen), CAUTION]


def measured_near(images_per_class: float | None, fine_tuned: bool | None = None) -> list[str]:
    """Return what this project measured with about as many training images per class, in lines.

    Args:
        images_per_class: mean number of training images of a class; None chooses every comparison.
        fine_tuned: whether training starts from trained weights; None chooses both starts.
    """
    lines = []
    for start in (False, True):
        chosen = [one for one in measured_comparisons() if one["fine_tuned"] == start]
        if fine_tuned not in (None, start) or not chosen:
            continue
        title = "fine-tuning" if start else "training from scratch"
        if images_per_class:
            asked = math.log(images_per_class)
            counts = [one["images_per_class"] for one in chosen]
            count = min(counts, key=lambda number: abs(math.log(number) - asked))
            chosen = [one for one in chosen if one["images_per_class"] == count]
            title += f" with {count:g} images per class"
        lines += [f"measured by this project, {title}:", *map(_line, chosen)]
    return [*lines, CAUTION] if lines else []


def _line(comparison: dict[str, Any]) -> str:
    parts = []
    for one in comparison["differences"]:
        reach = "" if one["low"] is None else f" ({one['low']:+.1f} to {one['high']:+.1f})"
        parts.append(f"{one['method']} {one['mean']:+.1f}{reach}")
    seeds = comparison["seeds"]
    return (
        f"  {comparison['data']}, {comparison['images']:,} images, {comparison['network']}, "
        f"{comparison['epochs']} epochs, {seeds} seed{'' if seeds == 1 else 's'}, "
        f"{comparison['train_accuracy']:.1f} % of the training images predicted: {', '.join(parts)}"
    )
