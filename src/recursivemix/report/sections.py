"""Sections that every comparison's page has, from ``comparison.json`` alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from .page import Code, Plot, Section, Table
from .plots import Series, forest, lines
from .statistics import estimate
from .table import decimals
from .words import number, p_words, verdict, with_interval

Comparison = dict[str, Any]
"""What ``comparison.json`` holds."""


def _titled(about: dict[str, Any]) -> str:
    return f"{about['name']} ({about['unit']})" if about["unit"] else str(about["name"])


def methods_section(comparison: Comparison) -> Section:
    """The table of methods."""
    metrics = {
        name: about
        for name, about in comparison["metrics"].items()
        if any(name in method["estimates"] for method in comparison["methods"])
    }
    rows = [
        [
            method["label"],
            str(len(method["runs"])),
            *(
                with_interval(method["estimates"].get(name), decimals(about), between="\n")
                for name, about in metrics.items()
            ),
        ]
        for method in comparison["methods"]
    ]
    settings = [
        [
            method["label"],
            method["mixer"],
            json.dumps(method["options"]) if method["options"] else "its defaults",
        ]
        for method in comparison["methods"]
    ]
    return Section(
        "Methods",
        text=["Means over seeds, with 95 % intervals of the mean (Student's t)."],
        tables=[Table("Every method", ["Method", "Seeds", *map(_titled, metrics.values())], rows)],
        folded=[Table("Settings of the methods", ["Method", "Mixer", "Settings"], settings)],
    )


def pairs_section(comparison: Comparison, plotted: Sequence[str]) -> Section | None:
    """Differences to the baseline, by metric; those named are drawn, the others' tables open on demand."""
    baseline, metrics = comparison["baseline"], comparison["metrics"]
    places = {method["label"]: i for i, method in enumerate(comparison["methods"])}
    plots, folded = [], []
    for metric, about in metrics.items():
        pairs = [pair for pair in comparison["pairs"] if pair["metric"] == metric]
        if not pairs:
            continue
        table = Table(
            f"{_titled(about)}: difference to {baseline}",
            ["Method", "Difference (95 % interval)", "p", "p, corrected", "Seeds", "What it says"],
            [
                [
                    pair["method"],
                    with_interval(pair, decimals(about), "+"),
                    p_words(pair["p"]),
                    p_words(pair["p_corrected"]),
                    str(pair["n"]),
                    verdict(pair, about),
                ]
                for pair in pairs
            ],
        )
        if metric not in plotted:
            folded.append(table)
            continue
        unit = "points" if about["unit"] == "%" else about["unit"]
        better = "right" if about["higher_is_better"] else "left"
        plots.append(
            Plot(
                about["name"],
                forest(
                    [
                        Series(
                            pair["method"],
                            places[pair["method"]],
                            [pair["mean"]],
                            [],
                            [pair["low"]],
                            [pair["high"]],
                        )
                        for pair in pairs
                    ],
                    f"difference to {baseline}{', ' + unit if unit else ''}",
                ),
                f"Better is to the {better}; an interval that holds zero shows nothing.",
                table,
            )
        )
    if not plots:
        return None
    return Section(
        f"Differences to {baseline}",
        text=[
            f"Each method minus {baseline} within the same seed: same initial weights, same order, same "
            "split. p-values are of the paired t-test, corrected for the number of methods (Holm). "
            "A difference is called shown where the interval leaves zero out and the corrected p is below "
            "0.05."
        ],
        plots=plots,
        folded=folded,
    )


def learning_section(
    comparison: Comparison, curves: Sequence[tuple[str, str, str, bool]]
) -> Section | None:
    """Curves by epoch.

    Args:
        comparison: whose runs have ``epochs``.
        curves: the name in a row of an epoch, a title, what to say, and whether it is percent.
    """
    plots = []
    for name, title, text, percent in curves:
        series, rows = [], []
        for i, method in enumerate(comparison["methods"]):
            by_epoch: dict[int, list[float]] = {}
            for run in method["runs"]:
                for epoch in run["epochs"]:
                    if epoch.get(name) is not None:
                        by_epoch.setdefault(epoch["epoch"], []).append(epoch[name])
            # Seeds that have not come as far would make a step where they end.
            epochs = [
                epoch for epoch, values in sorted(by_epoch.items()) if len(values) == len(method["runs"])
            ]
            if not epochs:
                continue
            found = [estimate(by_epoch[epoch]) for epoch in epochs]
            series.append(
                Series(
                    method["label"],
                    i,
                    epochs,
                    [one.mean for one in found],
                    [one.low for one in found],
                    [one.high for one in found],
                )
            )
            rows += [
                [method["label"], str(epoch), number(one.mean, 3), number(one.low, 3), number(one.high, 3)]
                for epoch, one in zip(epochs, found, strict=True)
            ]
        if series:
            table = Table(title, ["Method", "Epoch", "Mean", "Low", "High"], rows)
            plots.append(Plot(title, lines(series, "epoch", "", percent=percent), text, table))
    return Section("Learning curves", plots=plots) if plots else None


def repeat_section(comparison: Comparison, settings: str) -> Section:
    """The configuration, command and versions that repeat the comparison; ``settings`` titles the first."""
    hardware = comparison["hardware"]
    commits = sorted({str(run["commit"]) for method in comparison["methods"] for run in method["runs"]})
    versions = [
        ["commit", str(comparison["commit"])],
        ["commit of the runs", ", ".join(commits)],
        ["date", str(comparison["date"])],
    ]
    versions += [[name, str(value)] for name, value in comparison["versions"].items()]
    versions += [[name, "none" if value is None else str(value)] for name, value in hardware.items()]
    return Section(
        "Repeat it",
        codes=[
            Code("Command", shlex.join(comparison["command"])),
            Code(settings, comparison["config_yaml"]),
        ],
        tables=[Table("Where it ran", ["What", "Value"], versions)],
    )
