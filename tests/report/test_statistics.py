"""Intervals and tests against scipy, slow twins in plain Python, and simulated comparisons."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from recursivemix.report.pairs import PerImage, bounds_of, compare_all, compare_two
from recursivemix.report.statistics import (
    MOST_SEEDS,
    PERCENT,
    Bounds,
    estimate,
    holm,
    image_variance,
    mixture_test,
    paired_difference,
    seeds_needed,
)

A = [73.1, 72.4, 74.0, 73.3]
B = [72.0, 72.6, 73.1, 72.2]


def test_without_bounds_the_interval_of_a_mean_is_scipys():
    result = estimate(A)
    low, high = stats.t.interval(0.95, len(A) - 1, np.mean(A), stats.sem(A))
    assert result.mean == pytest.approx(np.mean(A))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.n == 4
    assert result.values == A


@pytest.mark.parametrize("values", [[70.0], [70.0, 71.0]])
def test_fewer_than_three_seeds_have_no_interval(values):
    assert (estimate(values).low, estimate(values).high) == (None, None)
    pair = paired_difference(values, [69.0] * len(values))
    assert pair.mean == pytest.approx(np.mean(values) - 69)
    assert (pair.low, pair.high, pair.p, pair.seeds_needed, pair.uncertainty) == (None,) * 5


def test_bounded_intervals_are_students_on_the_logit_or_log_scale():
    values = [2.0, 7.0, 3.0]
    mean, error, t = np.mean(values), stats.sem(values), stats.t.ppf(0.975, 2)
    share = mean / 100
    ends = special.logit(share) + np.array([-1, 1]) * t * error / 100 / (share * (1 - share))
    result = estimate(values, PERCENT)
    assert (result.low, result.high) == pytest.approx(tuple(100 * special.expit(ends)))
    ends = np.log(mean) + np.array([-1, 1]) * t * error / mean
    result = estimate(values, Bounds(0, None))
    assert (result.low, result.high) == pytest.approx(tuple(np.exp(ends)))
    # Far from the bounds it is the plain interval.
    plain, bounded = estimate([50.0, 50.1, 50.2]), estimate([50.0, 50.1, 50.2], PERCENT)
    assert (bounded.low, bounded.high) == pytest.approx((plain.low, plain.high), abs=1e-4)


@pytest.mark.parametrize("bounds", [PERCENT, Bounds(0, None), Bounds(0, 2)])
def test_bounded_intervals_stay_within_what_is_possible(bounds):
    source = torch.Generator().manual_seed(0)
    top = bounds.high or 50
    for scale in (1, 1e-3, 1e-6):
        for _ in range(50):
            values = (top * scale * torch.rand(3, generator=source, dtype=torch.float64)).tolist()
            result = estimate(values, bounds)
            assert 0 <= result.low <= result.mean <= result.high
            assert bounds.high is None or result.high <= bounds.high
    extremes = estimate([0.0, 0.0, top], bounds)
    assert 0 <= extremes.low <= extremes.high <= (bounds.high or math.inf)
    assert estimate([0.0, 0.0, 0.0], bounds).high == 0


def test_the_paired_test_is_scipys():
    result = paired_difference(A, B)
    expected = stats.ttest_rel(A, B)
    interval = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.differences == pytest.approx([1.1, -0.2, 0.9, 1.1])
    assert result.uncertainty == "seeds"


def test_a_difference_is_clipped_to_what_is_possible():
    result = paired_difference([99.0, 1.0, 99.0], [1.0, 99.0, 1.0], bounds=PERCENT)
    assert (result.low, result.high) == (-100, 100)


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
    # More seeds do not help where the test images leave it open.
    assert seeds_needed(1.0, 1.0, image_error=0.6) is None
    assert seeds_needed(1.0, 1.0) < seeds_needed(1.0, 1.0, image_error=0.4) <= MOST_SEEDS


def test_equal_runs_are_no_difference():
    same = paired_difference(A, A)
    assert (same.mean, same.low, same.high, same.p, same.seeds_needed) == (0, 0, 0, 1.0, None)
    shifted = paired_difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (shifted.p, shifted.low, shifted.high) == (0.0, 1.0, 1.0)


# -- test images as a second source of uncertainty --------------------------------------------------


def random_differences(seeds, images, seed=0):
    source = torch.Generator().manual_seed(seed)
    return (torch.randint(-1, 2, (seeds, images), generator=source) * 100).double().numpy()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variance_due_to_images_against_sums_of_squares_in_loops(seeds):
    table = random_differences(seeds, 40)
    table += 30 * np.arange(40)  # images that differ
    rows = [sum(row) / 40 for row in table.tolist()]
    columns = [sum(table[s][i] for s in range(seeds)) / seeds for i in range(40)]
    mean = sum(rows) / seeds
    of_images = seeds * sum((c - mean) ** 2 for c in columns) / 39
    of_rest = 0.0
    for s in range(seeds):
        for i in range(40):
            of_rest += (table[s][i] - rows[s] - columns[i] + mean) ** 2
    of_rest /= (seeds - 1) * 39
    assert image_variance(table) == pytest.approx((of_images - of_rest) / seeds / 40)


def test_the_variance_due_to_images_is_never_negative_and_one_seed_has_all_of_it():
    assert min(image_variance(random_differences(3, 30, seed)) for seed in range(30)) == 0
    one = random_differences(1, 200)
    assert image_variance(one) == pytest.approx(stats.sem(one[0]) ** 2)
    assert image_variance(np.ones((3, 1))) == 0


def test_the_mixture_against_random_draws_and_its_limits():
    source = torch.Generator().manual_seed(0)
    normal = torch.randn(4, 400_000, generator=source, dtype=torch.float64)
    student = normal[0] / normal[1:3].square().mean(0).sqrt()  # two degrees of freedom
    drawn = (0.7 * student + 0.5 * normal[3]).abs()
    p, half = mixture_test(2.0, 0.7, 2, 0.5)
    assert half == pytest.approx(float(drawn.quantile(0.95)), rel=0.02)
    assert p == pytest.approx(float((drawn > 2).double().mean()), rel=0.02)
    assert mixture_test(half, 0.7, 2, 0.5)[0] == pytest.approx(0.05)
    p, half = mixture_test(2.0, 0.7, 2, 1e-9)
    assert (p, half) == pytest.approx((2 * stats.t.sf(2 / 0.7, 2), 0.7 * stats.t.ppf(0.975, 2)), rel=1e-5)
    p, half = mixture_test(2.0, 1e-9, 2, 0.5)
    assert (p, half) == pytest.approx((2 * stats.norm.sf(4), 0.5 * stats.norm.ppf(0.975)), rel=1e-5)


def test_one_seed_is_compared_over_images_alone():
    """The interval of the mean difference is then that of independent images."""
    table = random_differences(1, 5000)
    second, first = [70.0 + table.mean()], [70.0]
    result = paired_difference(second, first, table)
    low, high = stats.norm.interval(0.95, table.mean(), stats.sem(table[0]))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert (result.uncertainty, result.images, result.n) == ("images", 5000, 1)
    assert result.seeds_needed is None


def test_images_widen_an_interval_over_seeds():
    table = random_differences(4, 100)
    table[:] = table[0] + np.array([[0.0], [0.5], [-0.5], [1.0]])  # the same images in every seed
    values = table.mean(1).tolist()
    alone = paired_difference(values, [0.0] * 4)
    both = paired_difference(values, [0.0] * 4, table)
    assert both.mean == alone.mean
    assert both.low < alone.low
    assert both.high > alone.high
    assert both.p > alone.p
    assert both.uncertainty == "seeds and images"


@pytest.mark.parametrize(
    ("seeds", "images", "seed_spread", "image_spread"),
    [(1, 400, 0.0, 0.6), (2, 400, 0.1, 0.4), (3, 400, 0.0, 0.6), (3, 400, 0.2, 0.2), (5, 200, 0.1, 0.6)],
)
def test_intervals_hold_the_truth_in_95_of_100_comparisons(seeds, images, seed_spread, image_spread):
    """Predictions with effects of seeds and images; the methods are equal over all of them."""
    source = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=source)

    held, rounds = 0, 400
    for _ in range(rounds):
        easiness = 1.5 * normal(images)
        gain = image_spread * normal(images)
        luck = seed_spread * normal(seeds, 1)
        first = easiness + normal(seeds, images) > 0
        second = easiness + gain + luck + normal(seeds, images) > 0
        table = 100 * (second.double() - first.double()).numpy()
        result = paired_difference(table.mean(1).tolist(), [0.0] * seeds, table)
        held += result.low <= 0 <= result.high
    # Three standard errors of the share below 95 %; a mixture may hold it more often than stated.
    assert held / rounds > 0.95 - 3 * math.sqrt(0.95 * 0.05 / rounds)
    assert held / rounds < 0.995


def run(values, images=None):
    return {"values": values, "images": images}


def read(run, metric):
    return run["images"] if metric == "acc" else None


def test_images_are_used_where_all_runs_have_the_same_ones():
    table = random_differences(2, 50)
    same = [PerImage(row, "test") for row in table]
    zero = PerImage(np.zeros(50), "test")
    methods = {
        "none": {seed: run({"acc": 0.0, "nll": 1.0}, zero) for seed in (0, 1)},
        "cutmix": {
            seed: run({"acc": float(table[seed].mean()), "nll": 0.9}, same[seed]) for seed in (0, 1)
        },
    }
    about = {"acc": {"unit": "%"}, "nll": {"unit": "", "bounds": [0, None]}}
    acc, nll = compare_all(methods, "none", about, read)
    assert acc["uncertainty"] == "seeds and images"
    assert acc["p"] == paired_difference(table.mean(1).tolist(), [0.0, 0.0], table).p
    assert nll["uncertainty"] is None
    for other in (None, PerImage(np.zeros(50), "validation"), PerImage(np.zeros(49), "test")):
        methods["none"][1]["images"] = other
        difference = compare_two(methods["cutmix"], methods["none"], "acc", per_image=read)
        assert difference.uncertainty is None


def test_pairs_are_of_common_seeds_that_have_the_metric():
    methods = {
        "none": {seed: run({"acc": 70.0 + seed}) for seed in (0, 1, 2)},
        "cutmix": {0: run({"acc": 71.0}), 1: run({}), 2: run({"acc": 74.0}), 3: run({"acc": 1.0})},
        "mixup": {7: run({"acc": 71.0})},
    }
    (pair,) = compare_all(methods, "none", {"acc": {"unit": "%"}})
    assert pair["differences"] == [1.0, 2.0]
    assert (pair["method"], pair["baseline"], pair["p_corrected"]) == ("cutmix", "none", None)


def test_the_interval_of_a_mean_is_within_what_its_unit_allows():
    assert bounds_of({"unit": "%"}) == PERCENT
    assert bounds_of({"unit": "images/s"}) == Bounds(0, None)
    assert bounds_of({"unit": "%", "bounds": [0, 2]}) == Bounds(0, 2)
    assert estimate([100.0, 900.0, 2500.0], bounds_of({"unit": "images/s"})).low > 0


# -- several methods at once ------------------------------------------------------------------------


def test_holm_by_the_book():
    """0.01 x 4, then the largest of what came before and 0.02 x 3, and so on."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    assert holm([0.02]) == [0.02]


@pytest.mark.slow
def test_the_interval_over_seeds_and_holms_correction_keep_their_level():
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


def test_empty_and_unequal_lists_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        estimate([])
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
