"""Compare methods in pairs, over the seeds and test images that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from .statistics import UNBOUNDED, Array, Bounds, Difference, holm, paired_difference

Run = Mapping[str, Any]
"""One finished run, as in ``comparison.json``; its ``values`` hold the metrics that were measured."""
Runs = Mapping[int, Run]
"""The finished runs of a method by seed."""


class PerImage(NamedTuple):
    """A metric of a run, image by image."""

    values: Array
    """(N,) in the metric's unit; their mean is the metric."""
    images: str
    """Identifies the test images."""


PerImageReader = Callable[[Run, str], PerImage | None]
"""Reads a metric of a run image by image; None if that was not kept."""


def compare_all(
    runs: Mapping[str, Runs],
    reference: str,
    metrics: Mapping[str, Mapping[str, Any]],
    per_image: PerImageReader | None = None,
) -> list[dict[str, Any]]:
    """Compare every method with the reference in every metric.

    Args:
        runs: the runs of each method by label.
        reference: the label of the baseline.
        metrics: unit and bounds of each metric, as in ``comparison.json``.
        per_image: reads a metric image by image; None reads nothing.

    Returns:
        ``pairs`` of ``comparison.json``: the fields of `Difference`, methods and metric, and the p-value
        corrected for the number of methods.
    """
    pairs = []
    for metric, about in metrics.items():
        compared = {
            label: compare_two(own, runs[reference], metric, bounds_of(about), per_image)
            for label, own in runs.items()
            if label != reference
        }
        differences = {label: one for label, one in compared.items() if one is not None}
        corrected = iter(holm([one.p for one in differences.values() if one.p is not None]))
        pairs += [
            {"method": label, "baseline": reference, "metric": metric, **asdict(one)}
            | {"p_corrected": None if one.p is None else next(corrected)}
            for label, one in differences.items()
        ]
    return pairs


def compare_two(
    runs: Runs,
    baseline: Runs,
    metric: str,
    bounds: Bounds = UNBOUNDED,
    per_image: PerImageReader | None = None,
) -> Difference | None:
    """Compare two methods in one metric; None if they share no seed that has it."""
    both = [
        (runs[seed], baseline[seed])
        for seed in sorted(runs.keys() & baseline.keys())
        if metric in runs[seed]["values"] and metric in baseline[seed]["values"]
    ]
    if not both:
        return None
    images = None
    if per_image is not None:
        images = _image_differences([[per_image(run, metric) for run in pair] for pair in both])
    values, others = ([run["values"][metric] for run in side] for side in zip(*both, strict=True))
    return paired_difference(values, others, images, bounds)


def _image_differences(pairs: Sequence[Sequence[PerImage | None]]) -> Array | None:
    """Return the (seeds, N) differences of single images; None unless all runs have the same images.

    Splits that are drawn by the seed need no such term: the spread over seeds contains the images' part.
    """
    known = [[side for side in pair if side is not None] for pair in pairs]
    if any(len(pair) < 2 for pair in known):
        return None
    if len({(side.images, len(side.values)) for pair in known for side in pair}) > 1:
        return None
    return np.array([pair[0].values - pair[1].values for pair in known], dtype=np.float64)


def bounds_of(about: Mapping[str, Any]) -> Bounds:
    """Return the bounds of a metric of ``comparison.json``; by default 0, and 100 for a percentage."""
    return Bounds(*about.get("bounds", (0, 100 if about["unit"] == "%" else None)))
