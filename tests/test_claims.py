"""The table of claims: verdicts follow the rule, and figures follow the records."""

import json
import re
import sys
from pathlib import Path
from statistics import fmean

import pytest
from scipy.stats import binom

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def claims():
    """The module in docs/, which is not part of the package."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import claims
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return claims


def difference(low, high, p, n=3):
    mean = 0.0 if low is None else (low + high) / 2
    return {"mean": mean, "low": low, "high": high, "p_corrected": p, "n": n, "uncertainty": "seeds"}


@pytest.mark.parametrize(
    ("pair", "higher", "published", "expected"),
    [
        (difference(0.5, 2.0, 0.01), True, None, "held"),
        (difference(-2.0, -0.5, 0.01), False, None, "held"),
        (difference(0.5, 2.0, 0.2), True, None, "not shown: not significant after the correction"),
        (difference(-2.0, -0.5, 0.2), True, None, "not held"),
        (difference(0.5, 2.0, 0.01), False, None, "not held"),
        (difference(-1.0, 1.0, 0.8), True, None, "not shown"),
        (difference(-1.0, 1.0, 0.8), True, 1.5, "not held: less than the published 1.5"),
        (difference(-1.0, 2.0, 0.8), True, 1.5, "not shown"),
        (difference(0.1, 1.0, 0.01), True, 1.5, "held"),
        (difference(None, None, None, 2), True, 1.5, "not shown: 2 seeds, 3 are needed"),
        (difference(1.0, 2.0, 0.01, 1), True, None, "not shown: 1 seed, 3 are needed"),
    ],
)
def test_a_verdict_follows_interval_and_corrected_p(claims, pair, higher, published, expected):
    assert claims.verdict(pair, higher, published) == expected


@pytest.mark.parametrize("n", [9, 30, 31])
def test_the_interval_of_a_median_has_the_coverage_of_order_statistics(claims, n):
    low, high = claims.median_interval(list(range(n))[::-1])
    assert high == n - 1 - low
    assert 2 * binom.cdf(low, n, 0.5) <= 0.05 < 2 * binom.cdf(low + 1, n, 0.5)


def test_a_claim_is_summed_up_from_its_measurements(claims):
    def rows(*verdicts):
        return [claims.Row(verdict, "", "", "", "", "", "") for verdict in verdicts]

    said = claims.summary(rows("not shown: why", "held", "not recorded: why"))
    assert said == "**held**: held in 1, not shown in 1 of 2 measurements"
    assert claims.summary(rows("held", "not held")).startswith("**depends on the setting**")
    assert claims.summary(rows("not shown", "not held: why")).startswith("**not held**")
    assert claims.summary(rows("not shown")).startswith("**not shown**")
    assert claims.summary(rows("not recorded: why")) == "**not measured yet**"


def test_figures_are_those_of_the_runs(claims):
    record = json.loads((ROOT / "results/compare/cifar10/comparison.json").read_text())
    scores = {
        method["label"]: [run["evaluation"]["corruption_mean"] for run in method["runs"]]
        for method in record["methods"]
    }
    mean = fmean(a - b for a, b in zip(scores["recursivemix"], scores["none"], strict=True))
    (row,) = claims.Better("compare/cifar10", "corruption_mean").rows()
    assert row.measured.startswith(f"{mean:+.2f} (")
    assert row.n == "3 seeds, 1,000 images"
    assert row.record == "results/compare/cifar10"


def test_what_a_record_lacks_is_said(claims, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    (row,) = claims.Better("nothing/here", "acc1_last").rows()
    assert row.verdict == "not recorded: the runs are not finished"
    monkeypatch.undo()
    (row,) = claims.Better("compare/ablation", "acc1_last", baseline="cutmix").rows()
    assert row.verdict == "not recorded: no run of cutmix is finished"
    (row,) = claims.Better("finetune/50", "corruption_mean").rows()
    assert row.verdict == "not recorded: the comparison did not measure it"


def test_published_figures_are_on_the_page_of_the_paper(claims):
    paper = (ROOT / "docs" / "paper.md").read_text()
    for claim in claims.CLAIMS:
        said = claim.words.partition("Held here")[0] + claim.why_not
        for figure in re.findall(r"\d+\.\d+", said):
            assert figure in paper, f"{claim.name}: {figure} is not in docs/paper.md"


def test_every_claim_has_evidence_or_a_reason(claims):
    for claim in claims.CLAIMS:
        assert bool(claim.evidence) != bool(claim.why_not), claim.name


def test_links_of_the_table_are_its_headings(claims):
    text = claims.claims_table()
    headings = {claims.anchor(line[3:]) for line in text.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\((#.*?)\)", text)) == headings
    assert len(headings) == len(claims.CLAIMS)
