"""What stands on a comparison's page, from ``comparison.json`` and the pictures beside it alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from recursivemix.report.page import Code, Page, Plot, Section, Strip, Table, render
from recursivemix.report.plots import Series, forest, lines, points
from recursivemix.report.statistics import estimate
from recursivemix.report.table import decimals, settled

Comparison = dict[str, Any]
NOTHING = "-"
"""In the place of a value that there is none of."""
MOST_CLASSES = 1000
"""More classes than this are left to the records."""


def build_page(comparison: Comparison, pictures: Path) -> str:
    """The page of a comparison.

    Args:
        comparison: what `recursivemix.compare.collect.collect` gives.
        pictures: the folder that `recursivemix.compare.pictures` fills; what is missing is left out.
    """
    data, seeds = comparison["data"], len(comparison["seeds"])
    times = f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
    facts = (
        f"{data['name']}: {data['train_images']:,} training images of {len(data['classes'])} classes, "
        f"measured on {data['evaluation_images']:,} {data['evaluation_split']} images; "
        f"{comparison['model']}, {comparison['epochs']} epochs, {times}; "
        f"baseline {comparison['baseline']}. Values are of the last epoch, intervals are 95 %."
    )
    notices = []
    if comparison["unfinished"]:
        notices.append(
            f"Not finished: {', '.join(comparison['unfinished'])}. What stands here is of the other runs; "
            "the same command goes on."
        )
    if seeds < 2:
        notices.append("One seed has no interval: nothing here tells methods apart. Run more --seeds.")
    sections = [
        methods_section(comparison),
        pairs_section(comparison),
        cost_section(comparison),
        learning_section(comparison),
        calibration_section(comparison),
        robustness_section(comparison),
        objects_section(comparison),
        classes_section(comparison),
        *pictures_sections(comparison, pictures),
        repeat_section(comparison),
    ]
    return render(
        Page(
            title="Which mixing method pays",
            answer=comparison["answer"],
            facts=facts,
            labels=[method["label"] for method in comparison["methods"]],
            sections=[section for section in sections if section is not None],
            notices=notices,
        )
    )


# -- numbers in words -------------------------------------------------------------------------------


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


def _titled(about: dict[str, Any]) -> str:
    return f"{about['name']} ({about['unit']})" if about["unit"] else str(about["name"])


# -- sections ---------------------------------------------------------------------------------------


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


def pairs_section(comparison: Comparison) -> Section | None:
    """Differences to the baseline, by metric."""
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
        if metric not in ("acc1_last", "nll", "ece", "corruption_mean"):
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


def cost_section(comparison: Comparison) -> Section:
    """Accuracy against training time, and the rest of the cost."""
    series, rows = [], []
    for i, method in enumerate(comparison["methods"]):
        found = method["estimates"]["acc1_last"]
        costs = {
            name: mean_of(method, "cost", name)
            for name in ("seconds", "images_per_second", "step_overhead", "peak_memory_bytes")
        }
        parameters = [mean_of(method, "cost", f"parameters_{name}") for name in ("training", "inference")]
        if costs["seconds"] is not None:
            series.append(
                Series(
                    method["label"], i, [costs["seconds"]], [found["mean"]], [found["low"]], [found["high"]]
                )
            )
        memory = costs["peak_memory_bytes"]
        rows.append(
            [
                method["label"],
                with_interval(found, 2),
                number(costs["seconds"], 0),
                number(costs["images_per_second"], 0),
                number(costs["step_overhead"], 2),
                number(None if memory is None else memory / 2**20, 0),
                NOTHING if parameters[0] is None else f"{parameters[0]:,.0f}",
                NOTHING if parameters[1] is None else f"{parameters[1]:,.0f}",
            ]
        )
    table = Table(
        "Cost of a run, mean over seeds",
        [
            "Method",
            "Accuracy (%)",
            "Training (s)",
            "Images per second",
            f"Time per image, times {comparison['baseline']}",
            "Peak memory (MiB)",
            "Parameters in training",
            "Parameters at inference",
        ],
        rows,
    )
    plot = Plot(
        "Accuracy against training time",
        points(series, "seconds of training, one run", "accuracy, last epoch, %", percent=True),
        "Up is more accurate, right is slower.",
        table,
    )
    text = (
        "Parameters beyond those at inference are left behind after training. Times of runs that shared a "
        "machine with others say little."
    )
    return Section("Accuracy against cost", text=[text], plots=[plot])


def learning_section(comparison: Comparison) -> Section | None:
    """Accuracy and loss by epoch."""
    plots = []
    for name, title, text in (
        ("acc1", "Accuracy by epoch, %", "Mean over seeds; the band is its 95 % interval."),
        (
            "val_loss",
            "Loss by epoch on the measured split",
            "Mean over seeds; the band is its 95 % interval.",
        ),
        (
            "loss_label",
            "Training loss by epoch",
            "On mixed images and labels: methods can't be compared by it.",
        ),
    ):
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
            plots.append(Plot(title, lines(series, "epoch", "", percent=name == "acc1"), text, table))
    return Section("Learning curves", plots=plots) if plots else None


def calibration_section(comparison: Comparison) -> Section | None:
    """Reliability curves."""
    series, rows = [], []
    for i, method in enumerate(comparison["methods"]):
        tables = [t for run in method["runs"] if (t := at(run, "evaluation", "reliability"))]
        confidence, accuracy = [], []
        for b in range(len(tables[0]["count"]) if tables else 0):
            own = [t for t in tables if t["count"][b]]
            images = sum(t["count"][b] for t in own)
            if not images:
                continue
            confidence.append(100 * sum(t["confidence"][b] * t["count"][b] for t in own) / images)
            accuracy.append(sum(t["accuracy"][b] * t["count"][b] for t in own) / images)
            edges = tables[0]["edges"]
            rows.append(
                [
                    method["label"],
                    f"{100 * edges[b]:.0f} to {100 * edges[b + 1]:.0f}",
                    number(confidence[-1], 1),
                    number(accuracy[-1], 1),
                    str(images),
                ]
            )
        if confidence:
            series.append(Series(method["label"], i, confidence, accuracy))
    if not series:
        return None
    columns = ["Method", "Bin (%)", "Mean confidence (%)", "Accuracy (%)", "Images, all seeds"]
    plot = Plot(
        "Reliability",
        lines(series, "confidence, %", "accuracy, %", percent=True, diagonal=100),
        "Predictions by their confidence, all seeds together. Under the dotted line: too sure; above: not "
        "sure enough.",
        Table("Reliability", columns, rows),
    )
    return Section("Calibration", plots=[plot])


def robustness_section(comparison: Comparison) -> Section | None:
    """Corruption, occlusion and scale curves."""
    plots = [
        _curve(
            comparison,
            "corruptions",
            "Corruption",
            "severity",
            "Mean of the kinds of disturbance.",
            lambda part: (range(1, 6), [sum(s) / len(part) for s in zip(*part.values(), strict=True)]),
        ),
        _curve(
            comparison,
            "corruptions",
            "Corruption by kind",
            "",
            "Mean of the five severities.",
            lambda part: (list(part), [sum(top1) / len(top1) for top1 in part.values()]),
        ),
        _curve(
            comparison,
            "occlusion",
            "Occlusion",
            "covered share of the image, %",
            "One square patch at a random place, as large as said.",
            lambda part: ([100 * share for share in part["share"]], part["top1"]),
        ),
        _curve(
            comparison,
            "scale",
            "Scale",
            "side of the object, % of the image",
            "The image shrunk, on the background of another.",
            lambda part: ([100 * side for side in part["side"]], part["top1"]),
        ),
    ]
    found = [plot for plot in plots if plot is not None]
    return Section("Corruption, occlusion, scale", plots=found) if found else None


def _curve(
    comparison: Comparison,
    part: str,
    title: str,
    x_title: str,
    text: str,
    curve: Callable[[dict[str, Any]], tuple[Sequence[float | str], Sequence[float]]],
) -> Plot | None:
    """Accuracy along something, mean over seeds; ``curve`` reads it from a part of an evaluation."""
    series, rows = [], []
    for i, method in enumerate(comparison["methods"]):
        curves = [curve(found) for run in method["runs"] if (found := at(run, "evaluation", part))]
        if not curves:
            continue
        x = curves[0][0]
        means = [estimate(values) for values in zip(*(values for _, values in curves), strict=True)]
        series.append(
            Series(
                method["label"],
                i,
                x,
                [one.mean for one in means],
                [one.low for one in means],
                [one.high for one in means],
            )
        )
        rows.append([method["label"], *(with_interval(vars(one), 1) for one in means)])
    if not series:
        return None
    columns = [
        "Method",
        *(f"{value:.0f}" if isinstance(value, float | int) else value for value in series[0].x),
    ]
    caption = f"{title}: accuracy (%)" + (f" by {x_title}" if x_title else "")
    text += " Mean over seeds; the band is its 95 % interval."
    return Plot(
        title, lines(series, x_title, "accuracy, %", percent=True), text, Table(caption, columns, rows)
    )


def objects_section(comparison: Comparison) -> Section | None:
    """Several objects in one image, and where the activation points."""
    plots = []
    places = {method["label"]: i for i, method in enumerate(comparison["methods"])}
    for metric, title, text, more in (
        (
            "multiple_top4",
            "Four images in one",
            "The share of the four classes that are among the top 4 predictions.",
            ("all four", "multiple", "all_four"),
        ),
        (
            "localisation",
            "Localisation",
            "The share of class activation maps whose peak lies in their class's quarter; chance is 25 %.",
            ("activation inside the quarter", "localisation", "energy"),
        ),
    ):
        found = {m["label"]: m for m in comparison["methods"] if metric in m["estimates"]}
        if not found:
            continue
        estimates = {label: method["estimates"][metric] for label, method in found.items()}
        series = [
            Series(label, places[label], [one["mean"]], [], [one["low"]], [one["high"]])
            for label, one in estimates.items()
        ]
        rows = [
            [label, with_interval(estimates[label], 1), number(mean_of(method, "evaluation", *more[1:]), 1)]
            for label, method in found.items()
        ]
        table = Table(title, ["Method", f"{title} (%)", f"{more[0]} (%)"], rows)
        plots.append(Plot(title, forest(series, "%", zero=False), text, table))
    return Section("Several objects", plots=plots) if plots else None


def classes_section(comparison: Comparison) -> Section | None:
    """Accuracy by class."""
    classes, methods = comparison["data"]["classes"], comparison["methods"]
    if len(classes) > MOST_CLASSES:
        return None
    rows, spreads = [], []
    for k, name in enumerate(classes):
        values = [mean_of(method, "evaluation", "accuracy", "per_class", k) for method in methods]
        known = [value for value in values if value is not None]
        if known:
            rows.append([name, *(number(value, 1) for value in values)])
            spreads.append(max(known) - min(known))
    if not rows:
        return None
    order = sorted(range(len(rows)), key=lambda i: -spreads[i])
    table = Table(
        "Accuracy by class (%), where methods differ most first",
        ["Class", *(method["label"] for method in methods)],
        [rows[i] for i in order],
    )
    few = len(rows) <= 20
    return Section("Classes", tables=[table] if few else [], folded=[] if few else [table])


def pictures_sections(comparison: Comparison, pictures: Path) -> list[Section]:
    """What each method makes of the same images, and where each network looks."""
    labels = [method["label"] for method in comparison["methods"]]
    gallery = _read(pictures / "gallery.json")
    mixed = [
        Strip(label, png, at(gallery, label, "captions") or [])
        for label in labels
        if (png := _bytes(pictures / f"gallery-{label}.png")) is not None
    ]
    cams = _read(pictures / "cams.json")
    looks = [
        Strip(label, png, at(cams, "methods", label) or [])
        for label in labels
        if (png := _bytes(pictures / f"cams-{label}.png")) is not None
    ]
    images = _bytes(pictures / "cams-images.png")
    if looks and images is not None:
        looks.insert(0, Strip("The images and their classes", images, at(cams, "images") or []))
    sections = []
    if mixed:
        sections.append(
            Section(
                "What each method makes of the same images",
                text=[
                    "A training batch after a few steps, and the share of each class in the label. Of 16 "
                    "draws the one whose own share is nearest to 0.7."
                ],
                strips=mixed,
            )
        )
    if looks:
        sections.append(
            Section(
                "Where the networks look",
                text=[
                    "Class activation maps (Grad-CAM) of the true class, seed 0, bright where the class is "
                    "seen; below them the predicted class and its confidence."
                ],
                strips=looks,
            )
        )
    return sections


def repeat_section(comparison: Comparison) -> Section:
    """The configuration, command and versions that repeat the comparison."""
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
            Code("comparison.yaml, for recursivemix compare --config", comparison["config_yaml"]),
        ],
        tables=[Table("Where it ran", ["What", "Value"], versions)],
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
