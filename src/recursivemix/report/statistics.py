"""Intervals and tests over few seeds and many test images.

Runs of one seed share initial weights, data order and split, so methods are compared by their differences
within seeds. Intervals are two-sided, at 95 %.

* One measure of one method: Student's t over seeds, on the logit or log scale where the measure is bounded.
* A difference of two methods: the paired t-test over seeds, on the measure's own scale, clipped to what is
  possible.
* A difference of accuracies whose predictions per image are known: other test images are a second source of
  uncertainty. The difference of image i with seed s is modelled as ``mean + seed_s + image_i + rest_si``,
  crossed random effects. The mean's error is then the sum of a part estimated over few seeds (Student's t)
  and one estimated over many images (normal), whose distribution is the Behrens-Fisher mixture (Robinson,
  Annals of Statistics 4(5), 1976: its intervals hold the truth at least as often as stated).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""A difference counts as shown if its corrected p-value is below this."""
LEAST_SEEDS = 3
"""Fewer seeds get no interval: with one degree of freedom it would be 13 standard errors wide."""
MOST_SEEDS = 1000
"""The largest number of seeds that `seeds_needed` returns."""
NODES = 200
"""Points of the numerical integration over the seeds' unknown variance."""

Array = NDArray[np.float64]
Uncertainty = Literal["seeds", "images", "seeds and images"]


class Bounds(NamedTuple):
    """The smallest and largest possible value of a measure; None where there is no bound."""

    low: float | None = None
    high: float | None = None


UNBOUNDED, PERCENT = Bounds(), Bounds(0, 100)


@dataclass(frozen=True)
class Estimate:
    """The mean of one value per seed, with its 95 % interval; None below `LEAST_SEEDS`."""

    mean: float
    low: float | None
    high: float | None
    n: int
    values: list[float]


@dataclass(frozen=True)
class Difference:
    """One method minus another over the seeds that both have."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    differences: list[float]
    seeds_needed: int | None
    """Seeds at which the interval would exclude zero if mean and spread stayed the same; None if it does
    already, if that cannot be known, or if it is above `MOST_SEEDS`."""
    uncertainty: Uncertainty | None
    """What the interval accounts for; None without an interval."""
    images: int | None
    """Number of test images that the interval accounts for."""


def estimate(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Return the mean of one value per seed and its interval, which stays within ``bounds``.

    The interval is Student's t around the transformed mean: logit between two bounds, log above one. The
    standard error on that scale is by the delta method, so that values on a bound are allowed.

    Raises:
        ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("a mean needs at least one value, got none")
    mean, n = fmean(values), len(values)
    if n < LEAST_SEEDS:
        return Estimate(mean, None, None, n, list(values))
    error = stdev(values) / math.sqrt(n)
    low, high = _bounded(mean, _quantile(n - 1) * error, bounds)
    return Estimate(mean, low, high, n, list(values))


def _bounded(mean: float, half: float, bounds: Bounds) -> tuple[float, float]:
    """Return ``mean`` plus and minus ``half``, added on a scale without bounds."""
    low, high = bounds
    if low is None or half == 0 or mean <= low or (high is not None and mean >= high):
        return mean - half, mean + half
    if high is None:
        factor = math.exp(min(500.0, half / (mean - low)))
        return low + (mean - low) / factor, low + (mean - low) * factor
    share = (mean - low) / (high - low)
    odds = share / (1 - share)
    factor = math.exp(min(500.0, half / (high - low) / (share * (1 - share))))
    ends = [low + (high - low) * value / (1 + value) for value in (odds / factor, odds * factor)]
    return ends[0], ends[1]


def paired_difference(
    values: Sequence[float],
    baseline: Sequence[float],
    images: Array | None = None,
    bounds: Bounds = UNBOUNDED,
) -> Difference:
    """Return ``values`` minus ``baseline``, which hold the same seeds in the same order.

    Args:
        values, baseline: one value per seed.
        images: (seeds, N) differences of single images in the unit of ``values``; None if they are unknown.
        bounds: of a value; the interval of the difference is clipped to their distance.

    Raises:
        ValueError: no pair, or lists of different lengths.
    """
    if len(values) != len(baseline) or not values:
        raise ValueError(f"pairs need equally many values, got {len(values)} and {len(baseline)}")
    differences = [a - b for a, b in zip(values, baseline, strict=True)]
    mean, n = fmean(differences), len(differences)
    if images is None and n < LEAST_SEEDS:
        return Difference(mean, None, None, None, n, differences, None, None, None)
    spread = stdev(differences) if n > 1 else 0.0
    if spread < 1e-12 * abs(mean):
        spread = 0.0  # rounding of equal differences
    image_error, count = 0.0, None
    uncertainty: Uncertainty = "seeds"
    if images is not None:
        image_error, count = math.sqrt(image_variance(images)), images.shape[1]
        uncertainty = "images" if n == 1 else "seeds and images"
    if image_error == 0 and spread > 0:
        from scipy.stats import ttest_rel

        test = ttest_rel(values, baseline)
        interval = test.confidence_interval(1 - LEVEL)
        p, low, high = float(test.pvalue), float(interval.low), float(interval.high)
    else:
        p, half = mixture_test(mean, spread / math.sqrt(n), n - 1, image_error)
        low, high = mean - half, mean + half
    if bounds.low is not None and bounds.high is not None:
        reach = bounds.high - bounds.low
        low, high = max(low, -reach), min(high, reach)
    needed = None
    if n > 1 and low <= 0 <= high:
        needed = seeds_needed(mean, spread, image_error)
    return Difference(mean, low, high, p, n, differences, needed, uncertainty, count)


def image_variance(differences: Array) -> float:
    """Estimate the variance of a mean difference that is due to the choice of test images.

    Args:
        differences: (S, N) of seed s and image i. With one seed, the image effect and the rest cannot be
            told apart, and both are counted.
    """
    seeds, count = int(differences.shape[0]), int(differences.shape[1])
    if count < 2:
        return 0.0
    per_image: Array = differences.mean(0)
    between = float(per_image.var(ddof=1))
    if seeds == 1:
        return between / count
    rest: Array = differences - differences.mean(1, keepdims=True) - per_image + differences.mean()
    within = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    return max(0.0, between - within / seeds) / count


def mixture_test(mean: float, seed_error: float, degrees: int, image_error: float) -> tuple[float, float]:
    """Return the two-sided p-value of ``mean`` and half of its interval.

    Args:
        mean: of the differences.
        seed_error: standard error over seeds, estimated with ``degrees`` degrees of freedom.
        degrees: seeds minus one; 0 for one seed, whose error is then not known and not counted.
        image_error: standard error over images, estimated over many.
    """
    from scipy.optimize import brentq

    if seed_error == 0 and image_error == 0:
        return float(mean == 0), 0.0

    def excess(half: float) -> float:
        return _tail(half, seed_error, degrees, image_error) - LEVEL / 2

    most = 2 * (image_error + (_quantile(degrees) * seed_error if degrees else 0.0))
    half = float(brentq(excess, 0, 2 * most, xtol=1e-10 * most))
    return min(1.0, 2 * _tail(abs(mean), seed_error, degrees, image_error)), half


def _tail(x: float, seed_error: float, degrees: int, image_error: float) -> float:
    """P(seed_error * T + image_error * Z > x), for Student's T and a normal Z that are independent."""
    from scipy.stats import norm, t

    if seed_error == 0 or degrees == 0:
        return float(norm.sf(x / image_error))
    if image_error == 0:
        return float(t.sf(x / seed_error, degrees))
    inverse, weights = _nodes(degrees)
    return float(weights @ norm.sf(x / np.sqrt(seed_error**2 * inverse + image_error**2)))


@cache
def _nodes(degrees: int) -> tuple[Array, Array]:
    """Points and weights to average over the ratio of true to estimated variance: degrees / chi-squared."""
    from scipy.stats import chi2

    points, weights = np.polynomial.legendre.leggauss(NODES)
    return degrees / chi2.ppf((points + 1) / 2, degrees), weights / 2


@cache
def _quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(1 - LEVEL / 2, degrees))


def seeds_needed(mean: float, spread: float, image_error: float = 0.0) -> int | None:
    """Return the fewest seeds whose interval excludes zero, for this mean and standard deviation."""

    def settled(n: int) -> bool:
        if spread == 0 and image_error == 0:
            return mean != 0
        return _tail(abs(mean), spread / math.sqrt(n), n - 1, image_error) < LEVEL / 2

    if not settled(MOST_SEEDS):
        return None
    # The interval narrows with every seed.
    return bisect_left(range(MOST_SEEDS + 1), True, lo=LEAST_SEEDS, key=settled)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979), in the order given."""
    corrected = np.array(p_values, np.float64)
    order = corrected.argsort(kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * corrected[order]))
    return list(map(float, corrected))
