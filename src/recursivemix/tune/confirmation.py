"""The confirmation: the settings found against the mixer none, on seeds that the search has not seen.

The score of the winner is the highest of many, and therefore too high. On fresh seeds, which also hold out
other images, it is compared with the mixer none twice: with the winner's learning rate and weight decay, so
that the difference is that of mixing, and with the default ones, which may suit none better.
"""

from __future__ import annotations

from typing import Any

from recursivemix.compare.answer import place, score_name
from recursivemix.compare.records import Comparison
from recursivemix.data.printable import counted
from recursivemix.report.table import settled
from recursivemix.report.words import interval, listed

from .settings import DEFAULT, FOUND, SAME, TuneSettings

WITH = {SAME: "none with the same other settings", DEFAULT: "none with the default settings"}
"""Words for the baselines in the answer."""


def methods_of(settings: TuneSettings, method: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the methods of the confirmation: the winner, and none with its and with default settings."""
    others = {n: v for n, v in method.items() if n not in ("mixer", "mixer_options", "mix_stop")}
    methods = {FOUND: method}
    if settings.mixer != "none":
        methods[SAME] = {"mixer": "none"} | others
    if any(settings.default_of(name) != value for name, value in others.items()):
        methods[DEFAULT] = {"mixer": "none"}
    return methods


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the differences of the settings found to each baseline, in the score of the comparison."""
    turned = []
    for pair in comparison["pairs"]:
        if pair["metric"] == comparison["score"]:
            low, high = (None if pair[end] is None else -pair[end] for end in ("high", "low"))
            each = [-difference for difference in pair["differences"]]
            turned.append(pair | {"mean": -pair["mean"], "low": low, "high": high, "differences": each})
    return turned


def verdict(record: dict[str, Any], comparison: Comparison | None) -> str:
    """Say in a sentence whether the settings found are better than no mixing.

    Args:
        record: of the search.
        comparison: of the confirmation; None if there is none.
    """
    mixer, trial = record["config"]["mixer"], record["trials"][record["winner"]]
    epochs, score = list(trial["scores"].items())[-1]
    best = (
        f"of {counted(len(record['trials']), 'trial')}, trial {trial['number']} has the highest score, "
        f"{score:.2f} % after {counted(int(epochs), 'epoch')}"
    )
    if comparison is None and mixer == "none" and trial["params"] == record["defaults"]:
        return f"No settings are found to be better than the default ones: {best}."
    if comparison is None:
        against = "the default settings" if mixer == "none" else "none"
        return (
            f"The settings found are not confirmed: {best}, which is too high as the best of many; nothing "
            f"is known yet about {mixer} against {against}."
        )
    pairs, name, where = differences(comparison), score_name(comparison), place(comparison)
    if not pairs or any(pair["low"] is None for pair in pairs):
        return (
            f"The settings found are not confirmed {where}: intervals need three finished seeds of the "
            f"settings found and of none; {best}."
        )
    words = listed([
        f"{pair['mean']:+.2f} points from {WITH[pair['method']]} ({interval(pair)}, corrected p "
        f"{pair['p_corrected']:.2g}, {conclusion(pair)})"
        for pair in pairs
    ])  # fmt: skip
    is_better = "has" if all(conclusion(pair) == "higher" for pair in pairs) else "is not shown to have"
    return (
        f"{mixer} with the settings found {is_better} a higher {name} than none {where}: {words}, "
        f"{counted(len(comparison['seeds']), 'fresh seed')}."
    )


def conclusion(pair: dict[str, Any]) -> str:
    """Return what a difference of the settings found to a baseline shows."""
    if not settled(pair):
        return "not shown"
    return "higher" if pair["mean"] > 0 else "lower"
