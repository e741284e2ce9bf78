"""The page of a comparison: what it says, and what it does without what is missing."""

import json
import shutil
from functools import partial

import pytest
from made_up import write_comparison
from recursivemix.compare.page import build_page

from recursivemix.compare.compare import COMPARISON, PAGE, rebuild
from recursivemix.report.words import verdict

UP = {"name": "Accuracy", "unit": "%", "higher_is_better": True}


@pytest.fixture(scope="module")
def compared_folder(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("compared"))


@pytest.fixture
def make_folder(tmp_path):
    """Writes a comparison with other ``seeds``, or only so many ``finished`` runs."""
    return partial(write_comparison, tmp_path / "compared")


@pytest.fixture
def comparison(compared_folder):
    return json.loads((compared_folder / COMPARISON).read_text())


def own_part(html: str) -> str:
    """The file without plotly's own source."""
    return html[: html.rindex("</main>")]


def test_the_page_is_made_of_the_records_alone(tmp_path, make_folder):
    folder = make_folder()
    shutil.rmtree(folder / "runs")
    first = rebuild(folder)
    html = (folder / PAGE).read_text()
    assert first["answer"] == json.loads((folder / COMPARISON).read_text())["answer"]
    rebuild(folder)
    assert (folder / PAGE).read_text() == html
    with pytest.raises(ValueError, match=r"holds no comparison\.json"):
        rebuild(tmp_path)


def test_every_part_is_there(comparison, compared_folder):
    html = own_part(build_page(comparison, compared_folder / "pictures"))
    for title in (
        "Methods", "Differences to none", "Accuracy against cost", "Learning curves", "Calibration",
        "Robustness", "Several objects", "Classes",
        "What each method makes of the same images", "Where the networks look", "Repeat it",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert html.count('class="plot"') == 15
    assert html.count("<img ") == 7
    assert "recursivemix compare --data &#39;my &lt;photos&gt;&#39;" in html
    assert "mixers: none,cutmix" in html
    assert "<b>dog</b>" not in html
    assert "<script>window.broken" not in html


@pytest.mark.parametrize(
    "part",
    ["corruptions", "occlusion", "scale", "multiple", "localisation", "reliability", "accuracy"],
)
def test_what_was_not_measured_is_left_out(comparison, tmp_path, part):
    for method in comparison["methods"]:
        for run in method["runs"]:
            run["evaluation"].pop(part)
    assert "<h2>Methods</h2>" in build_page(comparison, tmp_path)


def test_without_evaluations_or_pictures_there_is_still_a_page(comparison, tmp_path):
    for method in comparison["methods"]:
        method["estimates"] = {"acc1_last": method["estimates"]["acc1_last"]}
        for run in method["runs"]:
            run["evaluation"] = None
            run["epochs"] = []
            run["cost"] = dict.fromkeys(run["cost"])
    comparison["pairs"] = []
    html = own_part(build_page(comparison, tmp_path))
    assert "<h2>Repeat it</h2>" in html
    assert "<h2>Calibration</h2>" not in html


def test_an_unfinished_comparison_says_so(make_folder):
    folder = make_folder(finished=5)
    rebuild(folder)
    html = own_part((folder / PAGE).read_text())
    assert "Not finished: a-label-of-my-own-that-is-rather-long-seed1, none-seed2" in html


def test_one_seed_tells_nothing_apart(make_folder):
    folder = make_folder(seeds=1)
    rebuild(folder)
    html = own_part((folder / PAGE).read_text())
    assert "One seed has no interval" in html
    assert "one seed: not known" in html


@pytest.mark.parametrize(
    ("low", "high", "p", "needed", "words"),
    [
        (1.0, 3.0, 0.01, None, "better"),
        (-3.0, -1.0, 0.01, None, "worse"),
        (1.0, 3.0, 0.2, None, "not shown: its p-value does not survive the correction"),
        (-1.0, 3.0, 0.5, 4, "not shown; 1 more seed would settle it, if it stays so"),
        (-1.0, 3.0, 0.5, 14, "not shown; 11 more seeds would settle it, if it stays so"),
        (-1.0, 1.0, 1.0, None, "not shown; more than 1000 seeds would be needed"),
        (None, None, None, None, "one seed: not known"),
    ],
)
def test_a_difference_in_words(low, high, p, needed, words):
    mean = 0.0 if low is None else (low + high) / 2
    pair = {"mean": mean, "low": low, "high": high, "p_corrected": p, "n": 3, "seeds_needed": needed}
    assert verdict(pair, UP) == words
