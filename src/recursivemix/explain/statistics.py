"""Measure the mixing process and write the numbers as a record, a page or a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recursivemix.data.atomic_write import atomic_write, write_json, write_text
from recursivemix.mixing import RecursiveMix
from recursivemix.report.cells import Theme, check_out
from recursivemix.report.page import render
from recursivemix.training.environment import environment

from .closed_form import empty_box_probability, mean_pasted_share, mean_weight_by_age
from .process import AGES, Statistics, measure_process
from .statistics_plots import draw_statistics, statistics_page

FORMATS = (".json", ".html", ".png")
RANGES = {"size": (8, 1024), "batches": (1, 10**6), "batch_size": (1, 128)}


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
        mixer: Mixing method.
        mixer_options: Settings of the mixer, such as --mixer-options.max_area 0.3.
        size: Pixels per side.
        batches: Number of batches.
        batch_size: Images per batch; methods that mix within a batch draw partners among them.
        seed: Seed of the mixing.
        model: Network for a method that works inside one.
        theme: light or dark, for PNG; a page follows the reader's setting.
        out: File to write: .html (a page with plots and tables), .png or .json.

    Returns:
        The measurements, and the record of how they were made.

    Raises:
        ValueError: a mixer, options or a file that cannot be used.
    """
    if out is not None:
        check_out(out, FORMATS)
    for name, value in (("size", size), ("batches", batches), ("batch_size", batch_size)):
        least, most = RANGES[name]
        if not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} must be in {least}..{most}, got {value}")
    settings = {
        "mixer": mixer,
        "mixer_options": mixer_options or {},
        "size": size,
        "batches": batches,
        "batch_size": batch_size,
        "seed": seed,
    }
    where = environment(gpu=False)
    start = time.perf_counter()
    measured = measure_process(mixer, (size, size), batches, batch_size, seed, model, mixer_options)
    record = {
        "kind": "statistics",
        **where,
        **settings,
        **record_of(measured),
        "closed_form": closed_form(mixer, mixer_options or {}, size),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if out is not None:
        write_statistics(measured, record, theme, out)
    return measured, record


def record_of(measured: Statistics) -> dict[str, Any]:
    """Return the measurements as plain values."""
    return {
        "images": measured.images,
        "sources_above": {f"{threshold:g}": n for threshold, n in measured.sources.items()},
        "most_sources": measured.most_sources,
        "label_by_age": measured.label_by_age,
        "label_of_partners": measured.label_of_partners,
        "pixels_by_age": measured.pixels_by_age,
        "scale_by_age": measured.scale_by_age,
        "scale_of_partners": measured.scale_of_partners,
        "pasted_mean": 1 - measured.lam_mean,
        "pasted": measured.lam_quantiles,
        "unmixed": measured.unmixed,
        "lam_counts": measured.lam_counts,
    }


def closed_form(mixer: str, options: dict[str, Any], size: int) -> dict[str, Any] | None:
    """Return the exact values for RecursiveMix with its history in every step; None for other methods."""
    if mixer != "recursivemix":
        return None
    made = RecursiveMix(1, **options)
    if made.partner != "history" or made.prob < 1:
        return None
    return {
        "pasted_mean": mean_pasted_share(size, made.max_area),
        "unmixed": empty_box_probability(size, made.max_area),
        "label_by_age": [mean_weight_by_age(age, size, made.max_area) for age in range(AGES)],
    }


def write_statistics(measured: Statistics, record: dict[str, Any], theme: Theme, out: Path) -> None:
    """Write JSON, a PNG or a page, by the suffix."""
    if out.suffix.lower() == ".json":
        write_json(out, record)
    elif out.suffix.lower() == ".png":
        with atomic_write(out) as part:
            part.write_bytes(draw_statistics(measured, record, theme))
    else:
        write_text(out, render(statistics_page(measured, record)))
