"""What stands on a comparison's page, from ``comparison.json`` and the pictures beside it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recursivemix.evaluation.probes import compared_metrics
from recursivemix.report.page import Page, Plot, Section, Strip, Table, render
from recursivemix.report.plots import Series, points
from recursivemix.report.probes import probe_sections
from recursivemix.report.sections import (
    Comparison,
    learning_section,
    methods_section,
    pairs_section,
    repeat_section,
)
from recursivemix.report.words import NOTHING, at, mean_of, number, with_interval

PLOTTED = ("acc1_last", *(metric.name for metric in compared_metrics() if metric.drawn))
"""Metrics whose differences are drawn."""
CURVES = (
    ("acc1", "Accuracy by epoch, %", "Mean over seeds; the band is its 95 % interval.", True),
    (
        "val_loss",
        "Loss by epoch on the measured split",
        "Mean over seeds; the band is its 95 % interval.",
        False,
    ),
    (
        "loss_label",
        "Training loss by epoch",
        "On mixed images and labels: methods can't be compared by it.",
        False,
    ),
)
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
        pairs_section(comparison, PLOTTED),
        cost_section(comparison),
        learning_section(comparison, CURVES),
        *probe_sections(comparison),
        classes_section(comparison),
        *pictures_sections(comparison, pictures),
        repeat_section(comparison, "comparison.yaml, for recursivemix compare --config"),
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


# -- sections ---------------------------------------------------------------------------------------


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


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
