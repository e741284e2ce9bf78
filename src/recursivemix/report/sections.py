"""Sections of a comparison's page, from the content of ``comparison.json``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from recursivemix.tasks import METRIC_NAMES

from .page import Code, Plot, Section, Table
from .plots import Series, forest, lines, points
from .statistics import PERCENT, UNBOUNDED, Bounds, Estimate, estimate
from .table import decimals, estimated_metrics, titled
from .words import NOTHING, heading, mean_of, number, p_words, verdict, with_interval

Comparison = dict[str, Any]
"""The content of ``comparison.json``."""
MOST_CLASSES = 1000
"""With more classes the page has no table of them."""
OPEN_CLASSES = 30
"""With more classes the table opens on demand."""
BAND = "Mean over seeds; the band is its 95 % interval."


def line_of(label: str, place: int, x: Sequence[float | str], estimates: Sequence[Estimate]) -> Series:
    """Return a line of `lines` through estimates, with their intervals."""
    means, low, high = [[getattr(one, part) for one in estimates] for part in ("mean", "low", "high")]
    return Series(label, place, x, means, low, high)


def row_of(label: str, place: int, summary: Mapping[str, Any]) -> Series:
    """Return a row of `forest` for a mean with its interval."""
    return Series(label, place, [summary["mean"]], [], [summary["low"]], [summary["high"]])


def methods_section(comparison: Comparison) -> Section:
    """Tabulate every metric of every method."""
    metrics = estimated_metrics(comparison)
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
        [one["label"], one["mixer"], json.dumps(one["options"]) if one["options"] else "defaults"]
        for one in comparison["methods"]
    ]
    return Section(
        "Methods",
        text=[
            "Means over seeds with 95 % intervals of the mean: Student's t, on the logit scale for "
            "percentages and on the log scale for other measures, so that intervals stay within what is "
            "possible. With fewer than three seeds there are no intervals."
        ],
        tables=[Table("All methods", ["Method", "Seeds", *map(titled, metrics.values())], rows)],
        folded=[Table("Settings of the methods", ["Method", "Mixer", "Settings"], settings)],
    )


def pairs_section(comparison: Comparison) -> Section | None:
    """Draw the differences to the baseline in the metrics that are drawn; tabulate the others."""
    baseline = comparison["baseline"]
    plots, folded = [], []
    for metric, about in comparison["metrics"].items():
        pairs = [pair for pair in comparison["pairs"] if pair["metric"] == metric]
        if not pairs:
            continue
        table = _pairs_table(pairs, about, baseline)
        if about.get("drawn"):
            plots.append(_pairs_plot(comparison, pairs, about, table))
        else:
            folded.append(table)
    if not plots:
        return None
    text = [
        f"Each method minus {baseline} within the same seed: same initial weights, same order, same split. "
        "p-values are of the paired t-test over seeds, corrected for the number of methods (Holm). A "
        "difference is shown if its interval excludes zero and the corrected p is below 0.05."
    ]
    if any(pair["images"] for pair in comparison["pairs"]):
        text.append(
            "Where predictions on single images are known, interval and p-value also account for the "
            "choice of test images: they hold for other seeds and other images. With one seed, they hold "
            "for other images alone."
        )
    return Section(f"Differences to {baseline}", text=text, plots=plots, folded=folded)


def _pairs_table(pairs: Sequence[dict[str, Any]], about: Mapping[str, Any], baseline: str) -> Table:
    return Table(
        f"{titled(about)}: difference to {baseline}",
        [
            "Method",
            "Difference (95 % interval)",
            "p",
            "p, corrected",
            "Seeds",
            "Accounts for",
            "Conclusion",
        ],
        [
            [
                pair["method"],
                with_interval(pair, decimals(about), "+"),
                p_words(pair["p"]),
                p_words(pair["p_corrected"]),
                str(pair["n"]),
                pair["uncertainty"] or NOTHING,
                verdict(pair, about),
            ]
            for pair in pairs
        ],
    )


def _pairs_plot(
    comparison: Comparison, pairs: Sequence[dict[str, Any]], about: Mapping[str, Any], table: Table
) -> Plot:
    places = {method["label"]: i for i, method in enumerate(comparison["methods"])}
    series = [row_of(pair["method"], places[pair["method"]], pair) for pair in pairs]
    unit = "points" if about["unit"] == "%" else about["unit"]
    figure = forest(series, f"difference to {comparison['baseline']}{', ' + unit if unit else ''}")
    better = "right" if about["higher_is_better"] else "left"
    return Plot(about["name"], figure, f"Better is to the {better}.", table)


def cost_section(comparison: Comparison) -> Section:
    """Draw the score against training time, and tabulate the cost."""
    about = comparison["metrics"][comparison["score"]]
    series, rows = [], []
    for i, method in enumerate(comparison["methods"]):
        summary = method["estimates"].get(comparison["score"])
        cost = {name: mean_of(method, "cost", name) for name in COST}
        if cost["seconds"] is not None and summary is not None:
            ends = [summary["low"]], [summary["high"]]
            series.append(Series(method["label"], i, [cost["seconds"]], [summary["mean"]], *ends))
        values = [
            NOTHING if (value := cost[name]) is None else f"{value / unit:,.{places}f}"
            for name, (_, unit, places) in COST.items()
        ]
        rows.append([method["label"], with_interval(summary, 2), *values])
    columns = ["Method", titled(about), *(title for title, _, _ in COST.values())]
    kept = [i for i in range(len(columns)) if any(row[i] != NOTHING for row in rows)]
    table = Table(
        f"Cost of a run, mean over seeds; overhead: time per image divided by {comparison['baseline']}'s",
        [columns[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
    )
    name = about["name"].removesuffix(", last epoch")
    plot = Plot(
        f"{name} against training time",
        points(series, "training time of one run, seconds", f"{name}, last epoch, %", percent=True),
        "Up is better, right is slower.",
        table,
    )
    text = (
        "Parameters that are used only in training are dropped afterwards. Times of runs that shared a "
        "machine with other work are not comparable."
    )
    return Section("Cost", text=[text], plots=[plot])


COST = {
    "seconds": ("Training (s)", 1, 0),
    "images_per_second": ("Images per second", 1, 0),
    "step_overhead": ("Overhead", 1, 2),
    "peak_memory_bytes": ("Peak memory (MiB)", 2**20, 0),
    "parameters_training": ("Parameters in training", 1, 0),
    "parameters_inference": ("Parameters at inference", 1, 0),
}
"""Column, unit and decimals of each cost."""


def learning_section(comparison: Comparison) -> Section | None:
    """Draw curves over epochs."""
    score = comparison["score"].removesuffix("_last")
    curves: tuple[tuple[str, str, str, Bounds], ...] = (
        (score, f"{heading(METRIC_NAMES[score])} by epoch, %", BAND, PERCENT),
        ("acc_clean", "Accuracy on unmixed training images by epoch, %", BAND, PERCENT),
        ("val_loss", "Evaluation loss by epoch", BAND, Bounds(0, None)),
        (
            "loss_label",
            "Training loss by epoch",
            "On mixed images and labels; not comparable between methods.",
            UNBOUNDED,
        ),
        ("loss", "Training loss by epoch", "Of mixed images, with dense mixing.", UNBOUNDED),
    )
    plots = [plot for curve in curves if (plot := _learning_plot(comparison, *curve)) is not None]
    return Section("Learning curves", plots=plots) if plots else None


def _learning_plot(comparison: Comparison, name: str, title: str, text: str, bounds: Bounds) -> Plot | None:
    series, rows = [], []
    for i, method in enumerate(comparison["methods"]):
        by_epoch: dict[int, list[float]] = {}
        for run in method["runs"]:
            for epoch in run["epochs"]:
                if epoch.get(name) is not None:
                    by_epoch.setdefault(epoch["epoch"], []).append(epoch[name])
        # A seed that stopped earlier would make a step in the mean.
        epochs = [epoch for epoch, values in sorted(by_epoch.items()) if len(values) == len(method["runs"])]
        if not epochs:
            continue
        estimates = [estimate(by_epoch[epoch], bounds) for epoch in epochs]
        series.append(line_of(method["label"], i, epochs, estimates))
        rows += [
            [method["label"], str(epoch), *(number(value, 3) for value in (one.mean, one.low, one.high))]
            for epoch, one in zip(epochs, estimates, strict=True)
        ]
    if not series:
        return None
    table = Table(title, ["Method", "Epoch", "Mean", "Low", "High"], rows)
    return Plot(title, lines(series, "epoch", "", percent=bounds.high is not None), text, table)


def classes_section(comparison: Comparison) -> Section | None:
    """Tabulate the score by class, largest differences between methods first."""
    classes, methods = comparison["data"]["classes"], comparison["methods"]
    if len(classes) > MOST_CLASSES:
        return None
    rows = []
    for k, name in enumerate(classes):
        values = [_class_mean(method, k, name) for method in methods]
        known = [value for value in values if value is not None]
        if known:
            rows.append((min(known) - max(known), [name, *(number(value, 1) for value in values)]))
    if not rows:
        return None
    score = comparison["score"].removesuffix("_last")
    table = Table(
        f"{heading(METRIC_NAMES[score]).replace('mIoU', 'IoU')} by class (%), largest differences first",
        ["Class", *(method["label"] for method in methods)],
        [row for _, row in sorted(rows, key=lambda item: item[0])],
    )
    few = len(rows) <= OPEN_CLASSES
    return Section("Classes", tables=[table] if few else [], folded=[] if few else [table])


def _class_mean(method: dict[str, Any], index: int, name: str) -> float | None:
    """Return a class's mean score, of an evaluation or of the runs themselves."""
    value = mean_of(method, "evaluation", "accuracy", "per_class", index)
    return mean_of(method, "per_class", name) if value is None else value


def repeat_section(comparison: Comparison) -> Section:
    """Show command, configuration and versions that repeat the comparison."""
    commits = sorted({str(run["commit"]) for method in comparison["methods"] for run in method["runs"]})
    return Section(
        "Repeat it",
        codes=[
            Code("Command", shlex.join(comparison["command"])),
            Code("comparison.yaml, for recursivemix compare --config", comparison["config_yaml"]),
        ],
        tables=[environment_table(comparison, [["commit of the runs", ", ".join(commits)]])],
    )


def environment_table(record: dict[str, Any], more: list[list[str]]) -> Table:
    """Tabulate commit, date, versions and hardware of a record, with more rows after the commit."""
    rows = [["commit", str(record["commit"])], *more, ["date", str(record["date"])]]
    for part in ("versions", "hardware"):
        rows += [[name, "none" if value is None else str(value)] for name, value in record[part].items()]
    return Table("Where it ran", ["What", "Value"], rows)
