"""The table of methods for other programs holds what the records hold."""

import copy
import csv
import io
import json

import pytest

from recursivemix.report.safe_cell import FORMULA
from recursivemix.report.table import as_csv, as_json, as_latex, beats, escaped, settled

UP = {"name": "Accuracy", "unit": "%", "higher_is_better": True}
DOWN = {"name": "Loss_&_more", "unit": "", "higher_is_better": False}


def found(mean: float, half: float | None) -> dict:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "n": 1 if half is None else 3, "values": [mean]}


def pair(method: str, metric: str, mean: float, half: float, p: float) -> dict:
    return {
        "method": method, "baseline": "none", "metric": metric, "mean": mean, "low": mean - half,
        "high": mean + half, "p": p, "p_corrected": p, "n": 3, "differences": [mean], "seeds_needed": None,
    }  # fmt: skip


COMPARISON = {
    "answer": "gentle, 50 % of the time",
    "baseline": "none",
    "metrics": {"acc": UP, "loss": DOWN, "nobody": UP},
    "pairs": [pair("my_50%", "acc", 2.0, 1.0, 0.01), pair("my_50%", "loss", -0.5, 1.0, 0.4)],
    "methods": [
        {"label": "none", "mixer": "none", "options": {}, "runs": [1],
         "estimates": {"acc": found(70, 1.5), "loss": found(1, None)}},
        {"label": "my_50%", "mixer": "cutmix", "options": {"prob": 0.5}, "runs": [1],
         "estimates": {"acc": found(72, 0.25)}},
    ],
}  # fmt: skip


def test_json_holds_estimates_and_pairs():
    table = json.loads(as_json(COMPARISON))
    assert table["pairs"] == COMPARISON["pairs"]
    assert table["methods"][1]["estimates"]["acc"]["mean"] == 72
    assert "runs" not in table["methods"][1]


def test_csv_has_a_row_for_each_method_and_metric():
    rows = list(csv.DictReader(io.StringIO(as_csv(COMPARISON))))
    assert [(row["method"], row["metric"]) for row in rows] == [
        ("none", "acc"), ("none", "loss"), ("my_50%", "acc")
    ]  # fmt: skip
    assert (rows[0]["mean"], rows[0]["low"], rows[0]["difference"]) == ("70", "68.5", "")
    assert (rows[1]["low"], rows[1]["n"]) == ("", "1")
    assert (rows[2]["difference"], rows[2]["p_corrected"]) == ("2.0", "0.01")


def test_latex_escapes_and_marks_what_is_shown():
    table = as_latex(COMPARISON)
    assert r"Method & Accuracy (\%) & Loss\_\&\_more \\" in table
    assert r"none & $70.00 \pm 1.50$ & $1.000$ \\" in table
    assert r"my\_50\% & $\mathbf{72.00} \pm 0.25$ & -- \\" in table
    assert table.count("{") == table.count("}")
    uneven = copy.deepcopy(COMPARISON)
    uneven["methods"][1]["estimates"]["acc"] |= {"low": 71.5, "high": 72.25}
    assert r"$\mathbf{72.00}_{-0.50}^{+0.25}$" in as_latex(uneven)
    assert escaped("\\{a}~^$#") == r"\textbackslash{}\{a\}\textasciitilde{}\textasciicircum{}\$\#"
    assert escaped("<b>|a\nb") == r"\textless{}b\textgreater{}\textbar{}a b"


@pytest.mark.parametrize(
    "label", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", " =1", '=HYPERLINK("http://x","y")', "\uff1d1"]
)
def test_no_label_starts_a_formula(label):
    comparison = copy.deepcopy(COMPARISON)
    comparison["methods"][1]["label"] = label
    comparison["pairs"] = [pair(label, "acc", -2.0, 1.0, 0.01)]
    rows = list(csv.reader(io.StringIO(as_csv(comparison))))
    texts = [cell for row in rows for cell in row[:3]]
    assert [cell for cell in texts if cell.lstrip(" ")[:1] in (*FORMULA, "\uff1d") and cell] == []
    assert rows[3][0] == f"'{label}"
    assert float(rows[3][7]) == -2.0  # numbers stay numbers


def test_fewer_than_three_seeds_show_nothing_about_others():
    one = pair("m", "acc", 2.0, 1.0, 0.001)
    assert not settled(one | {"n": 1, "uncertainty": "images"})
    assert not settled(one | {"n": 2, "uncertainty": "seeds and images"})
    assert settled(one | {"uncertainty": "seeds and images"})


@pytest.mark.parametrize(
    ("mean", "half", "p", "about", "better"),
    [
        (2, 1, 0.01, UP, True),
        (-2, 1, 0.01, UP, False),
        (-2, 1, 0.01, DOWN, True),
        (2, 3, 0.2, UP, False),
        (2, 1, 0.06, UP, False),  # the interval leaves zero out, the corrected p does not bear it
    ],
)
def test_better_is_what_is_shown_to_be(mean, half, p, about, better):
    assert beats(pair("m", "acc", mean, half, p), about) is better
