"""The comparison's statistics, against scipy, statsmodels' definition in plain Python, and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from recursivemix.report.statistics import (
    estimate,
    holm,
    paired_difference,
    seeds_needed,
)

A = [73.1, 72.4, 74.0, 73.3]
B = [72.0, 72.6, 73.1, 72.2]


def test_the_mean_and_its_interval_are_scipys():
    result = estimate(A)
    low, high = stats.t.interval(0.95, len(A) - 1, np.mean(A), stats.sem(A))
    assert result.mean == pytest.approx(np.mean(A))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.n == 4
    assert result.values == A


def test_one_seed_has_no_interval():
    assert (estimate([70.0]).low, estimate([70.0]).high) == (None, None)
    single = paired_difference([70.0], [69.0])
    assert (single.mean, single.low, single.p, single.seeds_needed) == (1.0, None, None, None)


def test_the_paired_test_is_scipys():
    result = paired_difference(A, B)
    expected = stats.ttest_rel(A, B)
    interval = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.differences == pytest.approx([1.1, -0.2, 0.9, 1.1])


def test_seeds_needed_is_the_first_that_settles_it():
    result = paired_difference(A, B)
    assert result.low < 0 < result.high
    spread = np.std(result.differences, ddof=1)

    def settled(n):
        return stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) < result.mean

    assert settled(result.seeds_needed)
    assert not settled(result.seeds_needed - 1)


def test_what_is_settled_or_hopeless_needs_no_seeds():
    assert paired_difference([2.0, 2.1, 1.9], [1.0, 1.0, 1.0]).seeds_needed is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None


def test_equal_runs_are_no_difference():
    same = paired_difference(A, A)
    assert (same.mean, same.low, same.high, same.p, same.seeds_needed) == (0, 0, 0, 1.0, None)
    shifted = paired_difference([2.0, 3.0], [1.0, 2.0])
    assert (shifted.p, shifted.low, shifted.high) == (0.0, 1.0, 1.0)


def test_holm_by_the_book():
    """0.01 x 4, then the largest of what came before and 0.02 x 3, and so on."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    assert holm([0.02]) == [0.02]


def test_the_interval_holds_the_truth_in_95_of_100_and_holm_keeps_its_promise():
    """Simulated seeds: no difference between four methods and a baseline."""
    source = torch.Generator().manual_seed(0)
    held, false_alarms, rounds = 0, 0, 800
    for _ in range(rounds):
        luck = torch.randn(3, generator=source)
        runs = (luck + 0.5 * torch.randn(5, 3, generator=source)).tolist()
        results = [paired_difference(run, runs[0]) for run in runs[1:]]
        held += results[0].low <= 0 <= results[0].high
        false_alarms += min(holm([result.p for result in results])) < 0.05
    assert held / rounds == pytest.approx(0.95, abs=0.03)
    assert false_alarms / rounds < 0.07


def test_nothing_and_unequal_lists_are_named():
    with pytest.raises(ValueError, match="at least one"):
        estimate([])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
