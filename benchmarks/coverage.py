"""How often the intervals of a comparison hold the truth, in simulated comparisons whose truth is known.

    python benchmarks/coverage.py --out results/coverage.json

Two methods classify the same test images with several seeds. Whether image i is classified correctly by
seed s depends on the image, on how much the second method helps this image, on the seed and on chance. The
share of intervals that hold the true difference of the methods, over new seeds and new images, should be
95 % or a little more. Beside the interval of the reports stand the paired t-test over seeds alone, a
t-interval with Satterthwaite's degrees of freedom and the hierarchical bootstrap.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from recursivemix.data.atomic_write import write_json
from recursivemix.report.statistics import Bounds, estimate, image_variance, paired_difference
from recursivemix.training.environment import environment

SPREAD = 1.5
"""Standard deviation of the images' easiness, in units of the chance in one prediction."""
EASINESS, GAIN = 0.9, 0.15
"""Mean easiness, and what the second method adds to it."""
RESAMPLES = 200


class Setting(NamedTuple):
    """A comparison to simulate."""

    seeds: int
    images: int
    seed_spread: float
    """Standard deviation of a network's luck."""
    image_spread: float
    """Standard deviation, over images, of what the second method adds."""


SETTINGS = tuple(
    Setting(seeds, images, *spreads)
    for seeds in (1, 2, 3, 5)
    for images in (300, 1000, 10_000)
    for spreads in ((0.0, 0.5), (0.05, 0.5), (0.2, 0.2))
)
LEVELS = tuple((seeds, variation) for seeds in (3, 5) for variation in (0.2, 0.5, 1.0))
"""Seeds, and standard deviation over mean, of a measure that cannot be negative."""


def draw(setting: Setting, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return correctness in percent of both methods (seeds, images), the truth, and the first seed's."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    seeds, images, seed_spread, image_spread = setting
    easiness = EASINESS + SPREAD * normal(images)
    luck = seed_spread * normal(2, seeds, 1)
    gain = GAIN + image_spread * normal(images)
    first = easiness + luck[0] + normal(seeds, images) > 0
    second = easiness + gain + luck[1] + normal(seeds, images) > 0
    chance = 1 + SPREAD**2

    def gained(variance: float, shift: tuple[float, float] = (0.0, 0.0)) -> float:
        better = (EASINESS + GAIN + shift[1]) / math.sqrt(chance + variance + image_spread**2)
        plain = (EASINESS + shift[0]) / math.sqrt(chance + variance)
        return 100 * float(stats.norm.cdf(better) - stats.norm.cdf(plain))

    these = gained(0.0, (float(luck[0, 0]), float(luck[1, 0])))  # of the first seed
    return 100.0 * first.double().numpy(), 100.0 * second.double().numpy(), gained(seed_spread**2), these


def intervals(
    first: np.ndarray, second: np.ndarray, generator: torch.Generator
) -> dict[str, tuple[float, float]]:
    """Return each method's interval of the mean difference."""
    difference = second - first
    seeds, images = difference.shape
    reported = paired_difference(second.mean(1).tolist(), first.mean(1).tolist(), difference)
    assert reported.low is not None
    assert reported.high is not None
    ends = {"reported": (reported.low, reported.high)}
    if seeds == 1:
        return ends
    mean = float(difference.mean())
    over_seeds = float(difference.mean(1).var(ddof=1)) / seeds
    over_images = image_variance(difference)
    half = float(stats.t.ppf(0.975, seeds - 1)) * math.sqrt(over_seeds)
    ends["t over seeds"] = (mean - half, mean + half)
    total = over_seeds + over_images
    degrees = total**2 / (over_seeds**2 / (seeds - 1) + over_images**2 / (images - 1)) if total else 1.0
    half = float(stats.t.ppf(0.975, degrees)) * math.sqrt(total)
    ends["t, Satterthwaite"] = (mean - half, mean + half)
    if images <= 1000:
        seed_counts = _counts(seeds, generator)
        image_counts = _counts(images, generator)
        means = np.einsum("rs,si,ri->r", seed_counts, difference, image_counts, optimize=True)
        low, high = np.percentile(means / (seeds * images), [2.5, 97.5])
        ends["hierarchical bootstrap"] = (float(low), float(high))
    return ends


def _counts(of: int, generator: torch.Generator) -> np.ndarray:
    """How often each of ``of`` things is drawn in each resample, (RESAMPLES, of)."""
    chosen = torch.randint(of, (RESAMPLES, of), generator=generator)
    counts = torch.zeros(RESAMPLES, of, dtype=torch.float64)
    return np.asarray(counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64)))


def difference_rows(setting: Setting, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Simulate one setting; a row for each kind of interval."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[str, list[bool]] = {}
    held_here: list[bool] = []
    widths: dict[str, list[float]] = {}
    for _ in range(rounds):
        first, second, truth, these = draw(setting, generator)
        for name, (low, high) in intervals(first, second, generator).items():
            held.setdefault(name, []).append(low <= truth <= high)
            widths.setdefault(name, []).append(high - low)
            if name == "reported":
                held_here.append(low <= these <= high)
    return [
        {
            **setting._asdict(),
            "interval": name,
            "coverage": float(np.mean(values)),
            "coverage_of_this_seed": float(np.mean(held_here)) if setting.seeds == 1 else None,
            "mean_width": float(np.mean(widths[name])),
        }
        for name, values in held.items()
    ]


def level_rows(seeds: int, variation: float, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Simulate a positive measure with mean 3, gamma distributed over seeds; a row per kind of interval."""
    generator = torch.Generator().manual_seed(seed)
    shape = round(1 / variation**2)
    held = {"t": 0, "log t": 0}
    outside = {"t": 0, "log t": 0}
    for _ in range(rounds):
        waits = torch.rand(shape, seeds, generator=generator, dtype=torch.float64).log().neg()
        values = (3 / shape * waits.sum(0)).tolist()  # a gamma of whole shape is a sum of exponentials
        for name, bounds in (("t", Bounds()), ("log t", Bounds(0, None))):
            found = estimate(values, bounds)
            assert found.low is not None
            assert found.high is not None
            held[name] += found.low <= 3 <= found.high
            outside[name] += found.low < 0
    return [
        {
            "seeds": seeds,
            "variation": variation,
            "interval": name,
            "coverage": held[name] / rounds,
            "below_zero": outside[name] / rounds,
        }
        for name in held
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2000, help="simulated comparisons (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few and small comparisons")
    parser.add_argument("--out", type=Path, help="record to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    where = environment(gpu=False)  # before any file can change
    settings, levels = SETTINGS, LEVELS
    if options.quick:
        options.rounds = 20
        settings, levels = (Setting(1, 50, 0.05, 0.5), Setting(3, 50, 0.05, 0.5)), LEVELS[:1]
    differences, measures = [], []
    for setting in settings:
        rows = difference_rows(setting, options.rounds, options.seed)
        differences += rows
        for row in rows:
            print(f"{tuple(setting)} {row['interval']}: {100 * row['coverage']:.1f} %", flush=True)
    for seeds, variation in levels:
        rows = level_rows(seeds, variation, options.rounds, options.seed)
        measures += rows
        for row in rows:
            print(f"{seeds} seeds, variation {variation} {row['interval']}: {100 * row['coverage']:.1f} %")
    if options.out is not None:
        record = {
            "benchmark": "coverage",
            **where,
            "settings": {"quick": options.quick, "resamples": RESAMPLES},
            "seed": options.seed,
            "n": options.rounds,
            "differences": differences,
            "levels": measures,
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
