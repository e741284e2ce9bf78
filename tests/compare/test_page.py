"""The page of a comparison: what it says, and what it does without what is missing."""

import json
import shutil
from functools import partial

import pytest
from made_up import LONG, write_backbones, write_comparison

from recursivemix.compare.compare import COMPARISON, PAGE, report
from recursivemix.compare.records import with_statistics
from recursivemix.evaluation.probes import PROBES
from recursivemix.report.comparison_page import build_page
from recursivemix.report.probes import curve_plot
from recursivemix.report.table import as_csv, as_latex
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
    first = report(folder)
    html = (folder / PAGE).read_text()
    assert first["answer"] == json.loads((folder / COMPARISON).read_text())["answer"]
    report(folder)
    assert (folder / PAGE).read_text() == html
    with pytest.raises(ValueError, match=r"has no comparison\.json"):
        report(tmp_path)


def test_every_part_is_there(comparison, compared_folder):
    html = own_part(build_page(comparison, compared_folder / "pictures"))
    assert "Which mixing method helps?" in html
    for title in (
        "Methods", "Differences to none", "Cost", "Learning curves", "Calibration", "Robustness",
        "Several objects", "Classes", "What each method makes of the same images",
        "What the networks look at", "Repeat it",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert html.count('class="plot"') == 15
    assert html.count("<img ") == 7
    assert "recursivemix compare --data &#39;my &lt;photos&gt;&#39;" in html
    assert "mixers: none,cutmix" in html


def test_a_comparison_of_backbones_has_the_same_page(tmp_path):
    folder = write_backbones(tmp_path / "backbones")
    comparison = report(folder)
    html = own_part((folder / PAGE).read_text())
    assert "has a higher box AP than none" in comparison["answer"]
    assert "Which backbone helps downstream?" in html
    for title in (
        "Methods", "Differences to none", "Cost", "Learning curves", "Classes", "What the networks predict",
        "Repeat it",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in html
    assert "Box AP by class (%)" in html
    assert "Backbones were trained on my &lt;photos&gt;: 90 images of 32 pixels, 3 epochs." in html
    assert "apl" not in comparison["methods"][0]["estimates"]
    assert comparison["methods"][2]["mixer"] == "none"
    assert comparison["methods"][0]["estimates"]["pretrain_acc1"]["mean"] == pytest.approx(60)


EVIL = '"></script><script>window.broken = 1</script><b>&{x}_%$'


def test_names_with_markup_are_text_in_every_output(comparison, compared_folder):
    """Of classes, methods, data, settings and the command: in HTML, LaTeX and CSV."""
    text = json.dumps(comparison).replace(LONG, json.dumps(EVIL)[1:-1])
    renamed = json.loads(text)
    renamed["data"]["name"] = renamed["model"] = f"/data/{EVIL}"
    renamed = with_statistics(renamed)
    assert EVIL in [method["label"] for method in renamed["methods"]]
    html = own_part(build_page(renamed, compared_folder / "pictures"))
    assert "<b>" not in html
    assert "<script>window.broken" not in html
    assert "&lt;script&gt;window.broken" in html
    table = as_latex(renamed)
    assert r"\textless{}script\textgreater{}" in table
    assert r"\&\{x\}\_\%\$" in table
    assert "<" not in table
    assert json.dumps(EVIL)[1:4] not in as_csv(renamed).splitlines()[0]


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


def test_methods_without_a_score_are_left_out_of_the_plot_of_cost(tmp_path):
    """As where nothing is annotated in the evaluation images."""
    folder = write_backbones(tmp_path / "backbones")
    for methods in (["none"], ["none", "cutmix", LONG]):
        comparison = json.loads((folder / COMPARISON).read_text())
        for run in (run for method in comparison["methods"] for run in method["runs"]):
            if any(run["folder"].startswith(f"runs/{label}-seed") for label in methods):
                del run["values"]["ap"]
        html = own_part(build_page(with_statistics(comparison), tmp_path))
        assert "<h2>Cost</h2>" in html


def test_the_bands_of_curves_stay_within_percentages(comparison):
    for method in comparison["methods"]:
        for run, top1 in zip(method["runs"], (99.0, 60.0, 97.0), strict=True):
            run["evaluation"]["occlusion"] |= {"top1": [top1, top1 / 10, 1.0, 0.0, 0.0, 0.0]}
    (curve,) = next(probe.curves for probe in PROBES if probe.name == "occlusion")
    figure = curve_plot(comparison, curve).figure
    bands = [trace["y"] for trace in figure["data"] if trace["meta"].get("band")]
    assert len(bands) == 3
    assert all(0 <= value <= 100 for band in bands for value in band)


def test_an_unfinished_comparison_says_so(make_folder):
    folder = make_folder(finished=5)
    report(folder)
    html = own_part((folder / PAGE).read_text())
    assert f"Not finished: {LONG}-seed1, none-seed2" in html


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_intervals(make_folder, seeds):
    folder = make_folder(seeds=seeds)
    report(folder)
    html = own_part((folder / PAGE).read_text())
    assert "Fewer than 3 seeds are finished: there are no intervals over seeds" in html
    assert f"not known: {seeds} seed{'s' * (seeds > 1)}, 3 are needed" in html


@pytest.mark.parametrize(
    ("low", "high", "p", "needed", "uncertainty", "words"),
    [
        (1.0, 3.0, 0.01, None, "seeds", "better"),
        (-3.0, -1.0, 0.01, None, "seeds and images", "worse"),
        (1.0, 3.0, 0.2, None, "seeds", "not shown: not significant after the correction"),
        (-1.0, 3.0, 0.5, 4, "seeds", "not shown; 1 more seed would show a difference of this size"),
        (-1.0, 3.0, 0.5, 14, "seeds", "not shown; 11 more seeds would show a difference of this size"),
        (-1.0, 1.0, 1.0, None, "seeds", "not shown; more than 1000 seeds would be needed"),
        (
            -1.0, 1.0, 1.0, None, "seeds and images",
            "not shown; more than 1000 seeds or more test images would be needed",
        ),
        (1.0, 3.0, 0.01, None, "images", "better with this seed; other seeds may differ"),
        (-1.0, 3.0, 0.3, None, "images", "not shown: one seed"),
        (None, None, None, None, None, "not known: 3 seeds, 3 are needed"),
    ],
)  # fmt: skip
def test_a_difference_in_words(low, high, p, needed, uncertainty, words):
    mean = 0.0 if low is None else (low + high) / 2
    pair = {
        "mean": mean, "low": low, "high": high, "p_corrected": p, "n": 3, "seeds_needed": needed,
        "uncertainty": uncertainty,
    }  # fmt: skip
    assert verdict(pair, UP) == words
