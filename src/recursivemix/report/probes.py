"""Sections of a comparison's page that show the probes of its checkpoints, from the registry of probes."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

from recursivemix.evaluation.probe import Curve, Metric, Point, Probe
from recursivemix.evaluation.probes import PROBES

from .page import Plot, Section, Table
from .plots import Series, forest, lines
from .sections import Comparison, line_of, row_of
from .statistics import PERCENT, estimate
from .words import number, with_interval


def probe_sections(comparison: Comparison) -> list[Section]:
    """Return a section for each group of probes that any run was measured by."""
    plots: dict[str, list[Plot]] = defaultdict(list)
    for probe in PROBES:
        if not probe.section:
            continue
        drawn = [curve_plot(comparison, curve) for curve in probe.curves]
        if not probe.curves:
            drawn.append(metric_plot(comparison, probe))
        plots[probe.section] += [plot for plot in drawn if plot is not None]
    return [Section(title, plots=shown) for title, shown in plots.items() if shown]


def evaluations(method: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the evaluations of a method's runs."""
    return [run["evaluation"] for run in method["runs"] if run["evaluation"]]


def curve_plot(comparison: Comparison, curve: Curve) -> Plot | None:
    """Draw one line per method, averaged over seeds with 95 % intervals, or pooled without them."""
    series, rows, columns = [], [], ["Method"]
    for place, method in enumerate(comparison["methods"]):
        runs = [points for record in evaluations(method) if (points := curve.read(record))]
        if not runs:
            continue
        if curve.pooled:
            points = pooled(runs)
            series.append(
                Series(method["label"], place, [p.x for p in points], [p.accuracy for p in points])
            )
            rows += [
                [method["label"], p.label, number(float(p.x), 1), number(p.accuracy, 1), str(p.images)]
                for p in points
            ]
            columns = ["Method", "Bin", f"Mean {curve.x_label}", "Accuracy, %", "Images, all seeds"]
        else:
            means = [estimate([p.accuracy for p in group], PERCENT) for group in zip(*runs, strict=True)]
            series.append(line_of(method["label"], place, [p.x for p in runs[0]], means))
            rows.append([method["label"], *(with_interval(vars(mean), 1) for mean in means)])
            columns = ["Method", *(p.label for p in runs[0])]
    if not series:
        return None
    caption = f"{curve.title}: accuracy (%)" + (f" by {curve.x_label}" if curve.x_label else "")
    text = curve.text if curve.pooled else f"{curve.text} Mean over seeds; the band is its 95 % interval."
    figure = lines(
        series, curve.x_label, "accuracy, %", percent=True, diagonal=100 if curve.pooled else None
    )
    return Plot(curve.title, figure, text, Table(caption, columns, rows))


def pooled(runs: list[list[Point]]) -> list[Point]:
    """Average points of the same label over runs, weighted by their images, in order of x."""
    by_label: dict[str, list[Point]] = defaultdict(list)
    for points in runs:
        for point in points:
            by_label[point.label].append(point)
    means = []
    for label, group in by_label.items():
        images = sum(point.images for point in group)
        x = sum(float(point.x) * point.images for point in group) / images
        accuracy = sum(point.accuracy * point.images for point in group) / images
        means.append(Point(label, x, accuracy, images))
    return sorted(means, key=lambda point: float(point.x))


def metric_plot(comparison: Comparison, probe: Probe) -> Plot | None:
    """Draw the first metric of a probe per method; the table behind it has all of them."""
    first, *others = probe.metrics
    series, rows = [], []
    for place, method in enumerate(comparison["methods"]):
        summary = method["estimates"].get(first.name)
        if summary is None:
            continue
        series.append(row_of(method["label"], place, summary))
        rows.append(
            [method["label"], with_interval(summary, 1), *(number(_mean(method, one), 1) for one in others)]
        )
    if not series:
        return None
    columns = ["Method", *(f"{metric.title} ({metric.unit})" for metric in probe.metrics)]
    figure = forest(series, first.unit, zero=False)
    return Plot(first.title, figure, probe.text, Table(first.title, columns, rows))


def _mean(method: dict[str, Any], metric: Metric) -> float | None:
    values = [value for record in evaluations(method) if (value := metric.read(record)) is not None]
    return fmean(values) if values else None
