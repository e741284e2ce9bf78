"""Tables, page and picture of the measured mixing process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recursivemix.data.atomic_write import write_json, write_text
from recursivemix.data.printable import counted
from recursivemix.report.cells import AGE_COLOURS, GROUND, INK, Cell, Cells, repeated, write_figure
from recursivemix.report.names import Theme
from recursivemix.report.page import Page, Plot, Section, Table, render
from recursivemix.report.plots import Series, lines

from .process import AGES, BINS, THRESHOLDS, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL, EXACT, PIXELS = "label weight", "label weight, closed form", "share of pixels"
COVERAGE = "How often a pixel shows another image"


def summary_rows(measured: Statistics, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and values for a terminal and a page."""
    exact = record["closed_form"]
    rows = [("pasted share, mean of 1 - lam", f"{measured.pasted_mean:.4f}")]
    if exact:
        rows.append(("pasted share, closed form", f"{exact['pasted_mean']:.4f}"))
    rows += [
        (f"pasted share, {name}", f"{measured.pasted[key]:.3f}")
        for key, name in (("p10", "10th percentile"), ("p50", "median"), ("p90", "90th percentile"),
                          ("max", "maximum"))
    ]  # fmt: skip
    rows.append(("images with lam 1", f"{100 * measured.unmixed:.2f} %"))
    if exact:
        rows.append(("images with lam 1, closed form", f"{100 * exact['unmixed']:.2f} %"))
    if measured.label_of_partners:
        rows.append(("label weight of other images of the batch", f"{measured.label_of_partners:.4f}"))
    if measured.scale_of_partners is not None:
        rows.append(("scale of other images of the batch", f"{measured.scale_of_partners:.3f}"))
    rows += [
        (f"sources above a label weight of {t}", f"{n:.2f}") for t, n in measured.sources_above.items()
    ]
    rows.append((f"most sources above {THRESHOLDS[-1]:g} in an image", str(measured.most_sources)))
    return rows


def age_table(measured: Statistics, record: dict[str, Any]) -> Table:
    """Return label weight, pixels, scale and the closed form, if there is one, by age."""
    exact = record["closed_form"]
    rows = []
    for age in range(AGES):
        scale = measured.scale_by_age[age]
        name = "own image" if age == 0 else f"{age} step{'s' if age > 1 else ''} ago"
        values = [measured.label_by_age[age], measured.pixels_by_age[age]]
        row = [name, *(f"{v:.3g}" for v in values), "-" if scale is None else f"{scale:.3f}"]
        rows.append([*row, f"{exact['label_by_age'][age]:.3g}"] if exact else row)
    columns = ["source", LABEL, PIXELS, "scale of its side", *([EXACT] if exact else [])]
    return Table("Sources by age", columns, rows)


def statistics_page(measured: Statistics, record: dict[str, Any]) -> Page:
    """Return the page of the numbers."""
    plots = [
        age_plot(measured, record),
        sources_plot(measured),
        lam_plot(measured),
        *scale_plots(measured, record),
    ]
    drawn = {trace["meta"]["label"] for plot in plots for trace in plot.figure["data"]}
    least, most = float(measured.coverage.min()), float(measured.coverage.max())
    caption = f"{least:.3f} (dark) to {most:.3f} (bright)"
    coverage = Cell(coverage_picture(measured.coverage), (caption,))
    facts = f"{counted(record['batches'], 'batch', 'batches')} of {counted(record['batch_size'], 'image')}"
    options = (
        ", ".join(f"{name} {value}" for name, value in record["mixer_options"].items()) or "by default"
    )
    return Page(
        title=f"The mixing process of {measured.mixer}",
        answer=f"{measured.mixer}: {100 * measured.pasted_mean:.1f} % of an image comes from other "
        f"images; on average {measured.sources_above['0.01']:.1f} source images have a label weight above "
        f"1 %.",
        facts=f"{facts} of {record['size']} pixels, seed {record['seed']}, settings {options}.",
        labels=(EXACT, LABEL, PIXELS) if drawn - {LABEL} else (),
        labels_are="In the plots",
        sections=[
            Section(
                "Numbers",
                tables=[Table("The process", ["measure", "value"], summary_rows(measured, record))],
            ),
            Section("Plots", plots=plots),
            Section("Coverage", grids=[Cells(COVERAGE, ("",), ((coverage,),), ("",), lossless=True)]),
        ],
    )


def age_plot(measured: Statistics, record: dict[str, Any]) -> Plot:
    """Plot label weight and pixels by age, on a logarithmic axis without the zeros."""
    exact = record["closed_form"]
    values = [(EXACT, 0, exact["label_by_age"])] if exact else []
    values += [(LABEL, 1, measured.label_by_age), (PIXELS, 2, measured.pixels_by_age)]
    series = []
    for name, place, means in values:
        positive = [(age, mean) for age, mean in enumerate(means) if mean > 0]
        if positive:
            series.append(Series(name, place, [a for a, _ in positive], [m for _, m in positive]))
    figure = lines(series, "age of a source in steps", "mean, logarithmic")
    figure["layout"]["yaxis"] |= {"type": "log", "exponentformat": "power"}
    text = "How older images fade: means over all images."
    return Plot("Sources by age", figure, text, age_table(measured, record))


def sources_plot(measured: Statistics) -> Plot:
    """Plot the number of sources above each label weight."""
    names, counts = list(measured.sources_above), list(measured.sources_above.values())
    figure = lines([Series(LABEL, 1, names, counts)], "label weight above", "sources per image, mean")
    figure["layout"]["xaxis"] |= {"type": "category"}
    figure["layout"]["yaxis"] |= {"rangemode": "tozero"}
    rows = [[name, f"{count:.3f}"] for name, count in zip(names, counts, strict=True)]
    text = "Sources whose label weight is above a threshold."
    return Plot("Sources in a label", figure, text, Table("Sources in a label", ["above", "sources"], rows))


def lam_plot(measured: Statistics) -> Plot:
    """Plot the histogram of lam."""
    shares = [count / measured.images for count in measured.lam_counts]
    centers = [(i + 0.5) / BINS for i in range(BINS)]
    figure = lines([Series(LABEL, 1, centers, shares)], "lam", "share of the images")
    rows = [[f"{i / BINS:.3f} to {(i + 1) / BINS:.3f}", f"{share:.4f}"] for i, share in enumerate(shares)]
    table = Table("lam", ["lam", "share of the images"], rows)
    return Plot("lam", figure, f"Weight of the own image, in {BINS} bins.", table)


def scale_plots(measured: Statistics, record: dict[str, Any]) -> list[Plot]:
    """Plot the scale by age; no plot for methods that blend."""
    scales = [(age, scale) for age, scale in enumerate(measured.scale_by_age) if scale is not None]
    if not scales:
        return []
    series = Series(PIXELS, 2, [age for age, _ in scales], [scale for _, scale in scales])
    figure = lines([series], "age of a source in steps", "side, as a share of its own")
    figure["layout"]["yaxis"] |= {"rangemode": "tozero"}
    text = "Size of sources of which at least two neighbouring pixels are visible in each direction."
    return [Plot("Scale by age", figure, text, age_table(measured, record))]


def coverage_picture(coverage: Tensor) -> Tensor:
    """Draw a map from its minimum (dark) to its maximum (bright): uint8, at least 256 pixels per side."""
    from matplotlib import colormaps

    low, high = float(coverage.min()), float(coverage.max())
    scaled = (coverage - low) / (high - low) if high > low else torch.zeros_like(coverage)
    picture = torch.from_numpy(colormaps["cividis"](scaled.numpy(), bytes=True)[..., :3]).permute(2, 0, 1)
    return repeated(picture, max(1, 256 // min(coverage.shape)))


def draw_statistics(measured: Statistics, record: dict[str, Any], theme: Theme) -> Figure:
    """Draw four plots into one figure."""
    from matplotlib.figure import Figure

    ink, colours = INK[theme], AGE_COLOURS[theme]
    canvas = Figure(figsize=(10, 7.4), facecolor=GROUND[theme], layout="constrained")
    title = f"{measured.mixer}, {counted(record['batches'], 'batch', 'batches')} at {record['size']} pixels"
    canvas.suptitle(title, color=ink, fontsize=12)
    (by_age, in_label), (of_lam, coverage) = axes = canvas.subplots(2, 2)
    draw_ages(by_age, measured, record, theme)
    above = measured.sources_above
    bars = in_label.bar(list(above), list(above.values()), color=colours[0])
    in_label.bar_label(bars, fmt="%.2f", color=ink, fontsize=9)
    in_label.margins(y=0.12)
    in_label.set(xlabel="label weight above", ylabel="sources per image", title="Sources in a label")
    shares = [count / measured.images for count in measured.lam_counts]
    of_lam.bar([i / BINS for i in range(BINS)], shares, width=0.9 / BINS, align="edge", color=colours[0])
    of_lam.set(xlabel="lam", ylabel="share of the images", title="Weight of the own image", xlim=(0, 1))
    most = float(measured.coverage.max()) or 1
    image = coverage.imshow(measured.coverage.numpy(), cmap="cividis", vmin=0, vmax=most)
    bar = canvas.colorbar(image, ax=coverage).ax
    bar.set(ylabel="share of the images")
    coverage.set(title=COVERAGE, xlabel="x, pixels", ylabel="y, pixels")
    for axis in (*axes.flat, bar):
        axis.set_facecolor(GROUND[theme])
        axis.tick_params(colors=ink)
        for part in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.spines.values()):
            part.set_color(ink)
    return canvas


def draw_ages(axis: Axes, measured: Statistics, record: dict[str, Any], theme: Theme) -> None:
    """Draw label weight and pixels by age, with the closed form if there is one."""
    for name, values, colour, marker, side in (
        (LABEL, measured.label_by_age, AGE_COLOURS[theme][0], "o", 11),
        (PIXELS, measured.pixels_by_age, AGE_COLOURS[theme][2], "s", 5),
    ):
        positive = [(age, value) for age, value in enumerate(values) if value > 0]
        x, y = [age for age, _ in positive], [value for _, value in positive]
        axis.plot(x, y, color=colour, marker=marker, ms=side, label=name)
    if record["closed_form"]:
        exact = record["closed_form"]["label_by_age"]
        axis.plot(range(AGES), exact, color=INK[theme], ls=":", label=EXACT)
    axis.set(yscale="log", xlabel="age of a source in steps", ylabel="mean", title="Sources by age")
    axis.set_xticks(range(AGES))
    axis.legend(fontsize=8, frameon=False, labelcolor=INK[theme])


def write_statistics(measured: Statistics, record: dict[str, Any], theme: Theme, out: Path) -> None:
    """Write JSON, a PNG or a page, by the suffix."""
    if out.suffix.lower() == ".json":
        write_json(out, record)
    elif out.suffix.lower() == ".png":
        write_figure(draw_statistics(measured, record, theme), out, 110)
    else:
        write_text(out, render(statistics_page(measured, record)))
