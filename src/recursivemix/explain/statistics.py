"""The mixing process in numbers: no network, no data, only what a mixer draws and how it applies it.

The published process of RecursiveMix has closed forms (`mean_history_area`, `mean_weight_of_age`,
`chance_of_no_paste`), which the measured numbers are held against.
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.order import generator_of
from recursivemix.mixing import RecursiveMix
from recursivemix.report.cells import GROUND, INK, Theme, check_out
from recursivemix.report.page import Grid, GridCell, Page, Plot, Section, Table, render
from recursivemix.report.plots import Series, lines
from recursivemix.training.atomic_write import atomic_write, write_json, write_text
from recursivemix.training.environment import environment

from .preview import network_for
from .sources import SourceTracker

THRESHOLDS = (0.1, 0.05, 0.01, 1e-3, 1e-5)
"""Of a label weight; paper.md 1.4 has them too."""
AGES = 7
"""0 to 6 steps are told apart."""
REMEMBERED = 64
"""Steps after which a source is forgotten here: in the process its weight is below 1e-30 by then."""
BINS = 40
FORMATS = (".json", ".html", ".png")


@dataclass(frozen=True)
class Statistics:
    """What was measured over many batches; every mean is over all images but those of the first steps."""

    mixer: str
    size: tuple[int, int]
    """(H, W) pixels."""
    batches: int
    images: int
    """Images that were counted."""
    sources: dict[float, float]
    """Mean number of sources with a label weight above each of `THRESHOLDS`."""
    most_sources: int
    """Above the least threshold, in any image."""
    label_by_age: tuple[float, ...]
    """Mean label weight of all sources of an age, 0 to 6 steps; age 0 is the own image alone."""
    label_of_partners: float
    """Mean label weight of other images of the same batch."""
    pixels_by_age: tuple[float, ...]
    """Mean share of the pixels of the sources of an age."""
    scale_by_age: tuple[float | None, ...]
    """Mean side of a source that is seen, as a share of its own; None where none was, or if blended."""
    scale_of_partners: float | None
    """The same of other images of the same batch."""
    lam_mean: float
    lam_quantiles: dict[str, float]
    """"p10", "p50", "p90" of ``1 - lam``, and "max"."""
    unmixed: float
    """Share of the images with ``lam`` 1."""
    lam_counts: tuple[int, ...]
    """Images with ``lam`` in each of 40 equal bins of [0, 1]."""
    coverage: Tensor
    """(H, W) float32: how often each pixel shows another image than its own."""


def measure_process(
    mixer: str,
    size: tuple[int, int],
    batches: int,
    batch_size: int,
    seed: int,
    model: str = "resnet20",
    options: dict[str, Any] | None = None,
) -> Statistics:
    """Run a mixer on made-up images.

    Args:
        mixer: a name in `recursivemix.mixing.MIXERS`.
        size: (H, W) pixels of the images.
        batches: steps that are counted; a few more come before, so that there is a history.
        batch_size: images a step.
        seed: of the mixer, and of the images.
        model: the network of a method that works inside it.
        options: settings of the mixer.

    Raises:
        ValueError: a mixer or options that can't be used.
    """
    network = network_for(mixer, model, batch_size * REMEMBERED, size[0], seed)
    tracker = SourceTracker(mixer, batch_size, REMEMBERED, network, **({"seed": seed} | (options or {})))
    images = made_up_images(batch_size, size, seed)
    tracker.start_epoch()
    before = REMEMBERED // 4
    totals = _Totals(size)
    for step in range(before + batches):
        composition = tracker(images)
        if step < before:
            continue
        place = step % REMEMBERED
        ages = (place - torch.arange(REMEMBERED)) % REMEMBERED  # of each step's sources
        totals.add(
            composition.label.view(batch_size, REMEMBERED, batch_size),
            composition.pixels.view(batch_size, REMEMBERED, batch_size),
            ages,
            composition.batch.lam,
            coordinates_of(composition.batch.images) if composition.shown is not None else None,
            composition.shown,
            place * batch_size,
        )
    return totals.result(mixer, batches)


def made_up_images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """(count, 3, H, W): smooth noise to look at, and in the last two channels each pixel's own place.

    The places, (x, y) in pixels, are scaled down by 1e5, so that no method sees more than the noise.
    """
    generator = generator_of(seed, "made-up images")
    coarse = torch.randn(count, 1, 7, 7, generator=generator)
    noise = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    x = torch.arange(size[1], dtype=torch.float32).expand(count, 1, *size) * 1e-5
    y = torch.arange(size[0], dtype=torch.float32)[:, None].expand(count, 1, *size) * 1e-5
    return torch.cat([noise, x, y], 1)


def coordinates_of(images: Tensor) -> Tensor:
    """(B, 2, H, W): which (x, y) of its own image every pixel shows."""
    return images[:, 1:] * 1e5


class _Totals:
    """Sums over the batches."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.images = 0
        self.above = torch.zeros(len(THRESHOLDS), dtype=torch.float64)
        self.most = 0
        self.label = torch.zeros(AGES, dtype=torch.float64)
        self.pixels = torch.zeros(AGES, dtype=torch.float64)
        self.partners = 0.0
        self.scales = torch.zeros(AGES + 1, dtype=torch.float64)  # the last: partners
        self.seen = torch.zeros(AGES + 1, dtype=torch.float64)
        self.lam: list[Tensor] = []
        self.coverage = torch.zeros(size, dtype=torch.float64)

    def add(
        self,
        label: Tensor,
        pixels: Tensor,
        ages: Tensor,
        lam: Tensor,
        places: Tensor | None,
        shown: Tensor | None,
        first: int,
    ) -> None:
        count = len(label)
        own = torch.arange(count)
        self.images += count
        weights = label.flatten(1)
        number = torch.stack([(weights > threshold).sum(1) for threshold in THRESHOLDS])
        self.above += number.sum(1)
        self.most = max(self.most, int(number[-1].max()))
        self.lam.append(lam.double())
        now = int((ages == 0).nonzero()[0])
        own_label, own_pixels = label[own, now, own], pixels[own, now, own]
        self.partners += float((label[:, now].sum(1) - own_label).double().sum())
        for age in range(AGES):
            step = int((ages == age).nonzero()[0])
            of_age = own_label if age == 0 else label[:, step].sum(1)
            self.label[age] += of_age.double().sum()
            self.pixels[age] += (own_pixels if age == 0 else pixels[:, step].sum(1)).double().sum()
        if shown is None or places is None:
            self.coverage += (1 - own_pixels.double()).sum()
            return
        self.coverage += (shown != (first + own)[:, None, None]).double().sum(0)
        self._add_scales(places, shown, ages, first)

    def _add_scales(self, places: Tensor, shown: Tensor, ages: Tensor, first: int) -> None:
        """How far apart in their image neighbouring pixels of a source are: the inverse of its scale."""
        count = len(shown)
        right = shown[:, :, 1:] == shown[:, :, :-1]
        below = shown[:, 1:] == shown[:, :-1]
        steps = len(ages)
        across = (places[:, 0, :, 1:] - places[:, 0, :, :-1])[right].double()
        down = (places[:, 1, 1:] - places[:, 1, :-1])[below].double()
        of_right, of_below = shown[:, :, 1:][right], shown[:, 1:][below]
        # A source is pasted at most once into each image, so (image, source) names it.
        image = torch.arange(count)[:, None, None].expand_as(shown)
        keys = [
            image[:, :, 1:][right] * steps * count + of_right,
            image[:, 1:][below] * steps * count + of_below,
        ]
        total = count * steps * count
        means, known = [], []
        for key, distance in zip(keys, (across, down), strict=True):
            number = torch.bincount(key, minlength=total)
            distances = torch.bincount(key, weights=distance, minlength=total)
            means.append(distances / number.clamp(min=1))
            known.append(number > 0)
        usable = known[0] & known[1] & (means[0] > 0) & (means[1] > 0)
        scale = 1 / (means[0] * means[1]).clamp(min=1e-12).sqrt()
        key = torch.arange(total)
        group = ages[(key // count) % steps]
        other = (group == 0) & (key % (steps * count) != first + key // (steps * count))
        group = torch.where(other, AGES, torch.where(group < AGES, group, AGES + 1))
        for place in range(AGES + 1):
            chosen = usable & (group == place)
            self.scales[place] += scale[chosen].sum()
            self.seen[place] += chosen.sum()

    def result(self, mixer: str, batches: int) -> Statistics:
        lam = torch.cat(self.lam)
        scales = [float(s / n) if n else None for s, n in zip(self.scales, self.seen, strict=True)]
        pasted = 1 - lam
        quantiles = torch.quantile(pasted[: 2**24], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        counts = torch.histc(lam.float(), BINS, 0, 1)
        return Statistics(
            mixer=mixer,
            size=self.size,
            batches=batches,
            images=self.images,
            sources={t: float(n) / self.images for t, n in zip(THRESHOLDS, self.above, strict=True)},
            most_sources=self.most,
            label_by_age=tuple((self.label / self.images).tolist()),
            label_of_partners=self.partners / self.images,
            pixels_by_age=tuple((self.pixels / self.images).tolist()),
            scale_by_age=tuple(scales[:AGES]),
            scale_of_partners=scales[AGES],
            lam_mean=float(lam.mean()),
            lam_quantiles=dict(zip(("p10", "p50", "p90"), quantiles.tolist(), strict=True))
            | {"max": float(pasted.max())},
            unmixed=float((lam == 1).double().mean()),
            lam_counts=tuple(int(v) for v in counts),
            coverage=(self.coverage / self.images).float(),
        )


# -- closed forms of the published process ----------------------------------------------------------


def half_side_chances(side: int, max_area: float) -> Tensor:
    """(n,) float64: the chance of each half side 0, 1, 2, ... in pixels; the box is drawn with one ratio.

    The side is ``floor(side * sqrt(u))``, u ~ U(0, max_area), and the half side its half, rounded down
    (paper.md 1.2, step 2).
    """
    if max_area == 0:
        return torch.ones(1, dtype=torch.float64)
    halves = torch.arange(int(side * math.sqrt(max_area)) // 2 + 1, dtype=torch.float64)
    low, high = (2 * halves / side) ** 2, (2 * (halves + 1) / side) ** 2
    return (high.clamp(max=max_area) - low.clamp(max=max_area)) / max_area


def mean_history_area(side: int, max_area: float) -> float:
    """E[1 - lam] of square images after the first step.

    A half side h around a uniform centre, clipped, has the mean length ``2 h - h^2 / side``; both
    directions have the same h and independent centres.
    """
    chances = half_side_chances(side, max_area)
    halves = torch.arange(len(chances), dtype=torch.float64)
    share = (2 * halves - halves**2 / side) / side
    return float((chances * share**2).sum())


def chance_of_no_paste(side: int, max_area: float) -> float:
    """How often the box is empty: its half side is 0."""
    return float(half_side_chances(side, max_area)[0])


def mean_weight_of_age(age: int, side: int, max_area: float) -> float:
    """E of the label weight of the source of ``age`` steps ago: the draws of all steps are independent."""
    pasted = mean_history_area(side, max_area)
    return pasted**age * (1 - pasted)


# -- the command ------------------------------------------------------------------------------------


def statistics(
    mixer: str = "recursivemix",
    mixer_options: dict[str, Any] | None = None,
    size: int = 224,
    batches: int = 2000,
    batch_size: int = 8,
    seed: int = 0,
    model: str = "resnet20",
    theme: Theme = "light",
    out: Path | None = None,
) -> tuple[Statistics, dict[str, Any]]:
    """Measure the mixing process, without data or training.

    Args:
        mixer: The method.
        mixer_options: Settings of the mixer, such as --mixer-options.max_area 0.3.
        size: Pixels a side.
        batches: Batches that are mixed.
        batch_size: Images in each; methods that mix within a batch draw partners among them.
        seed: Of the mixing.
        model: The network, for a method that works inside it.
        theme: light or dark, of a PNG; a page follows the reader's.
        out: File to write: .html (a page with plots and tables), .png or .json.

    Returns:
        The numbers, and the record of how they were made.

    Raises:
        ValueError: a mixer, options or a file that can't be used.
    """
    if out is not None:
        check_out(out, FORMATS)
    for name, value, least, most in (
        ("size", size, 8, 1024), ("batches", batches, 1, 10**6), ("batch-size", batch_size, 1, 128),
    ):  # fmt: skip
        if not least <= value <= most:
            raise ValueError(f"--{name} must be in {least}..{most}, got {value}")
    where = environment(gpu=False)
    start = time.perf_counter()
    found = measure_process(mixer, (size, size), batches, batch_size, seed, model, mixer_options)
    record = {
        "kind": "statistics",
        **where,
        "mixer": mixer,
        "mixer_options": mixer_options or {},
        "size": size,
        "batches": batches,
        "batch_size": batch_size,
        "seed": seed,
        "images": found.images,
        "sources_above": {f"{t:g}": n for t, n in found.sources.items()},
        "most_sources": found.most_sources,
        "label_by_age": found.label_by_age,
        "label_of_partners": found.label_of_partners,
        "pixels_by_age": found.pixels_by_age,
        "scale_by_age": found.scale_by_age,
        "scale_of_partners": found.scale_of_partners,
        "pasted_mean": 1 - found.lam_mean,
        "pasted": found.lam_quantiles,
        "unmixed": found.unmixed,
        "lam_counts": found.lam_counts,
        "closed_form": closed_form(mixer, mixer_options or {}, size),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if out is not None:
        if out.suffix.lower() == ".json":
            write_json(out, record)
        elif out.suffix.lower() == ".png":
            with atomic_write(out) as part:
                part.write_bytes(draw_statistics(found, record, theme))
        else:
            write_text(out, render(statistics_page(found, record)))
    return found, record


def closed_form(mixer: str, options: dict[str, Any], size: int) -> dict[str, Any] | None:
    """What the process must give, for RecursiveMix with its history in every step; None for others."""
    if mixer != "recursivemix":
        return None
    made = RecursiveMix(1, **options)
    if made.partner != "history" or made.prob < 1:
        return None
    return {
        "pasted_mean": mean_history_area(size, made.max_area),
        "unmixed": chance_of_no_paste(size, made.max_area),
        "label_by_age": [mean_weight_of_age(age, size, made.max_area) for age in range(AGES)],
    }


def rows_by_age(found: Statistics, record: dict[str, Any]) -> list[list[str]]:
    """The table by age: label, pixels, scale, and the closed form where there is one."""
    exact = record["closed_form"]
    rows = []
    for age in range(AGES):
        scale = found.scale_by_age[age]
        row = [
            age_name(age),
            f"{found.label_by_age[age]:.3g}",
            f"{found.pixels_by_age[age]:.3g}",
            "-" if scale is None else f"{scale:.3f}",
        ]
        rows.append([*row, f"{exact['label_by_age'][age]:.3g}"] if exact else row)
    return rows


def age_name(age: int) -> str:
    """How a source of an age is called."""
    return "own image" if age == 0 else f"{age} step{'s' if age > 1 else ''} ago"


def summary_rows(found: Statistics, record: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers that a terminal and a page show."""
    exact = record["closed_form"]
    rows = [("share that is not the own image, mean of 1 - lam", f"{1 - found.lam_mean:.4f}")]
    if exact:
        rows.append(("the same by its closed form", f"{exact['pasted_mean']:.4f}"))
    rows += [
        (f"the same, {name}", f"{value:.3f}")
        for name, value in zip(
            ("10th percentile", "median", "90th percentile", "most"),
            found.lam_quantiles.values(),
            strict=True,
        )
    ]
    rows.append(("images with lam 1", f"{100 * found.unmixed:.2f} %"))
    if exact:
        rows.append(("the same by its closed form", f"{100 * exact['unmixed']:.2f} %"))
    if found.label_of_partners:
        rows.append(("label weight of other images of the batch", f"{found.label_of_partners:.4f}"))
    if found.scale_of_partners is not None:
        rows.append(("side of these, as a share of their own", f"{found.scale_of_partners:.3f}"))
    rows += [(f"sources above a label weight of {t:g}", f"{n:.2f}") for t, n in found.sources.items()]
    rows.append(("most of them above 1e-05", str(found.most_sources)))
    return rows


def statistics_page(found: Statistics, record: dict[str, Any]) -> Page:
    """Numbers, plots and the map of coverage."""
    exact = record["closed_form"]
    ages = list(range(AGES))
    measured = [Series("label weight, closed form", 0, ages, exact["label_by_age"])] if exact else []
    measured.append(Series("label weight", 1, ages, found.label_by_age))
    measured.append(Series("share of pixels", 2, ages, found.pixels_by_age))
    measured = [one for one in measured if max(one.y) > 0]
    weights = lines([_positive(one) for one in measured], "age of a source in steps", "mean, logarithmic")
    weights["layout"]["yaxis"] |= {"type": "log"}
    columns = ["", "label weight", "share of pixels", "scale of its side"]
    by_age = Table(
        "Sources by age",
        [*columns, "label weight, closed form"] if exact else columns,
        rows_by_age(found, record),
    )
    number = list(found.sources.values())
    counts = lines(
        [Series("label weight", 1, [f"{t:g}" for t in found.sources], number)],
        "label weight above",
        "sources an image, mean",
    )
    counts["layout"]["xaxis"] |= {"type": "category"}
    counts["layout"]["yaxis"] |= {"rangemode": "tozero"}
    centres = [(i + 0.5) / BINS for i in range(BINS)]
    shares = [count / found.images for count in found.lam_counts]
    spread = lines([Series("label weight", 1, centres, shares)], "lam", "share of the images")
    scales = [(a, s) for a, s in enumerate(found.scale_by_age) if s is not None]
    plots = [
        Plot("Sources by age", weights, "How the older images fade: means over all images.", by_age),
        Plot(
            "Sources in a label", counts, "Images whose weight in the label is above a threshold.",
            Table("Sources in a label", ["label weight above", "sources"],
                  [[f"{t:g}", f"{n:.3f}"] for t, n in found.sources.items()]),
        ),
        Plot(
            "lam", spread, f"Weight of the own image, in {BINS} bins.",
            Table("lam", ["lam", "share of the images"],
                  [[f"{c - 0.5 / BINS:.3f} to {c + 0.5 / BINS:.3f}", f"{s:.4f}"]
                   for c, s in zip(centres, shares, strict=True)]),
        ),
    ]  # fmt: skip
    if scales:
        drawn = lines(
            [Series("share of pixels", 2, [a for a, _ in scales], [s for _, s in scales])],
            "age of a source in steps",
            "side, as a share of its own",
        )
        drawn["layout"]["yaxis"] |= {"rangemode": "tozero"}
        text = "How large the older images are, where two of their pixels can be seen each way."
        plots.append(Plot("Scale by age", drawn, text, by_age))
    used = {trace["meta"]["label"] for plot in plots for trace in plot.figure["data"]}
    names = ["label weight, closed form", "label weight", "share of pixels"]
    most, least = float(found.coverage.max()), float(found.coverage.min())
    title = "How often each pixel shows another image than its own"
    words = [f"{least:.3f} (dark) to {most:.3f} (bright)"]
    where = Grid(title, [""], [[GridCell(_coverage_png(found.coverage), [], words)]], [""])
    table = Table("The process", ["", "value"], summary_rows(found, record))
    facts = f"{record['batches']} batches of {record['batch_size']} images of {record['size']} pixels"
    return Page(
        title=f"The mixing process of {found.mixer}",
        answer=f"{found.mixer}: an image shows {100 * (1 - found.lam_mean):.1f} % of other images, and "
        f"{found.sources[0.01]:.1f} images have 1 % of its label or more.",
        facts=f"{facts}, seed {record['seed']}, settings {record['mixer_options'] or 'as they are'}.",
        labels=names if used - {"label weight"} else (),
        labels_are="In the plots",
        sections=[
            Section("Numbers", tables=[table]),
            Section("By age, by weight", plots=plots),
            Section("Where", grids=[where]),
        ],
    )


def _positive(one: Series) -> Series:
    """What a logarithmic axis can show."""
    kept = [(x, y) for x, y in zip(one.x, one.y, strict=True) if y > 0]
    return Series(one.label, one.place, [x for x, _ in kept], [y for _, y in kept])


def _coverage_png(coverage: Tensor) -> bytes:
    from matplotlib import colormaps
    from PIL import Image

    low, high = float(coverage.min()), float(coverage.max())
    scaled = (coverage - low) / (high - low) if high > low else torch.zeros_like(coverage)
    pixels = colormaps["cividis"](scaled.numpy(), bytes=True)[..., :3]
    image = Image.fromarray(pixels.copy())
    times = max(1, 256 // min(image.size))
    held = io.BytesIO()
    image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(held, "png")
    return held.getvalue()


def draw_statistics(found: Statistics, record: dict[str, Any], theme: Theme) -> bytes:
    """Four plots in one PNG."""
    from matplotlib.figure import Figure

    from recursivemix.report.cells import AGE_COLOURS

    ink, colours = INK[theme], AGE_COLOURS[theme]
    figure = Figure(figsize=(10, 7.4), facecolor=GROUND[theme], layout="constrained")
    figure.suptitle(
        f"{found.mixer}, {record['batches']} batches at {record['size']} pixels", color=ink, fontsize=12
    )
    axes = figure.subplots(2, 2)
    ages = range(AGES)
    upper = axes[0][0]
    for name, values, colour, mark, side in (
        ("label weight", found.label_by_age, colours[0], "o", 11),
        ("share of pixels", found.pixels_by_age, colours[2], "s", 5),
    ):
        kept = [(a, v) for a, v in zip(ages, values, strict=True) if v > 0]
        upper.plot(
            [a for a, _ in kept], [v for _, v in kept], color=colour, marker=mark, ms=side, label=name
        )
    if record["closed_form"]:
        exact = record["closed_form"]["label_by_age"]
        upper.plot(ages, exact, color=ink, ls=":", label="label weight, closed form")
    upper.set(yscale="log", xlabel="age of a source in steps", ylabel="mean", title="Sources by age")
    upper.legend(fontsize=8, frameon=False, labelcolor=ink)
    number = axes[0][1]
    bars = number.bar([f"{t:g}" for t in found.sources], list(found.sources.values()), color=colours[0])
    number.bar_label(bars, fmt="%.2f", color=ink, fontsize=9)
    number.margins(y=0.12)
    number.set(xlabel="label weight above", ylabel="sources an image", title="Sources in a label")
    spread = axes[1][0]
    edges = [i / BINS for i in range(BINS)]
    shares = [count / found.images for count in found.lam_counts]
    spread.bar(edges, shares, width=0.9 / BINS, align="edge", color=colours[0])
    spread.set(xlabel="lam", ylabel="share of the images", title="Weight of the own image", xlim=(0, 1))
    place = axes[1][1]
    shown = place.imshow(found.coverage.numpy(), cmap="cividis")
    bar = figure.colorbar(shown, ax=place)
    bar.ax.tick_params(colors=ink)
    place.set(title="How often a pixel shows another image")
    for axis in axes.flat:
        axis.set_facecolor(GROUND[theme])
        axis.tick_params(colors=ink)
        axis.title.set_color(ink)
        axis.xaxis.label.set_color(ink)
        axis.yaxis.label.set_color(ink)
        for spine in axis.spines.values():
            spine.set_color(ink)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110, facecolor=GROUND[theme])
    return held.getvalue()
