"""What a few seeds allow to be said: means, paired differences, and how many more seeds would settle it.

Runs of one seed share weights, order and split, so methods are compared by their differences within seeds.
All intervals and tests are Student's t, two-sided, at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, TypeVar

LEVEL = 0.05
"""A difference counts where its corrected p-value is below this."""
RunT = TypeVar("RunT")
MOST_SEEDS = 1000
"""More seeds than this are not worth telling."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, which one seed alone does not have."""

    mean: float
    low: float | None
    high: float | None
    n: int
    values: list[float]


@dataclass(frozen=True)
class Difference:
    """One method against another over the seeds that both have."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    differences: list[float]
    seeds_needed: int | None
    """Seeds at which the interval would leave zero out, were mean and spread to stay as they are; None
    where it does already, or where that can't be told or is above `MOST_SEEDS`."""


def quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(1 - LEVEL / 2, degrees))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    return quantile(n - 1) * stdev(values) / math.sqrt(n)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed.

    Raises:
        ValueError: no value at all.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean, half = fmean(values), half_width(values)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean, low, high, len(values), list(values))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """``values`` minus ``baseline``, which hold the same seeds in the same order; the paired t-test.

    Raises:
        ValueError: no pair, or lists of different lengths.
    """
    if len(values) != len(baseline):
        raise ValueError(f"pairs need equally many values, got {len(values)} and {len(baseline)}")
    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    mean = estimate(differences)
    if mean.low is None or mean.high is None:
        return Difference(mean.mean, None, None, None, mean.n, differences, None)
    spread = stdev(differences)
    p = p_value(mean.mean, spread, mean.n)
    settled = mean.low > 0 or mean.high < 0
    needed = None if settled else seeds_needed(mean.mean, spread)
    return Difference(mean.mean, mean.low, mean.high, p, mean.n, differences, needed)


def p_value(mean: float, spread: float, n: int) -> float:
    """Two-sided p-value of a mean of ``n`` differences with standard deviation ``spread``."""
    from scipy.stats import t

    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / (spread / math.sqrt(n)), n - 1))


def seeds_needed(mean: float, spread: float) -> int | None:
    """The fewest seeds whose interval leaves zero out, for this mean and standard deviation."""
    if mean == 0:
        return None
    # The interval narrows with every seed, so the first that is narrow enough is the least.
    for n in range(2, MOST_SEEDS + 1):
        if quantile(n - 1) * spread / math.sqrt(n) < abs(mean):
            return n
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order they came."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def compare_all(
    runs: dict[str, dict[int, RunT]], reference: str, metrics: dict[str, Callable[[RunT], float | None]]
) -> list[dict[str, Any]]:
    """Every method against the reference in every metric, p-values corrected within each metric.

    Args:
        runs: of each method, by its label, its runs by their seed.
        reference: the label that the others are compared with.
        metrics: read a run's value; None where it was not measured.

    Returns:
        ``pairs`` of ``comparison.json``: the fields of `Difference`, who is compared, in what.
    """
    pairs = []
    for metric, value in metrics.items():
        found: list[tuple[str, Difference]] = []
        for label, own in runs.items():
            if label == reference:
                continue
            both = [
                (a, b)
                for seed in sorted(own.keys() & runs[reference].keys())
                if (a := value(own[seed])) is not None and (b := value(runs[reference][seed])) is not None
            ]
            if both:
                found.append((label, paired_difference([a for a, _ in both], [b for _, b in both])))
        tested = [difference.p for _, difference in found if difference.p is not None]
        corrected = iter(holm(tested))
        for label, difference in found:
            pairs.append(
                {
                    "method": label,
                    "baseline": reference,
                    "metric": metric,
                    **asdict(difference),
                    "p_corrected": None if difference.p is None else next(corrected),
                }
            )
    return pairs
