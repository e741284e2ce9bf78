"""The table of methods for other programs: JSON, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from .statistics import LEVEL

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


CSV_COLUMNS = (
    "method", "metric", "unit", "n", "mean", "low", "high",
    "difference", "difference_low", "difference_high", "p", "p_corrected", "seeds_needed",
)  # fmt: skip


def as_json(comparison: dict[str, Any]) -> str:
    """The estimates of every method and the differences to the baseline, as in ``comparison.json``."""
    methods = [
        {name: method[name] for name in ("label", "mixer", "options", "estimates")}
        for method in comparison["methods"]
    ]
    table = {name: comparison[name] for name in ("answer", "baseline", "metrics", "pairs")}
    return json.dumps({**table, "methods": methods}, indent=2) + "\n"


def as_csv(comparison: dict[str, Any]) -> str:
    """A row for each method and metric, with the paired difference to the baseline; empty for None."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    pairs = {(pair["method"], pair["metric"]): pair for pair in comparison["pairs"]}
    for method in comparison["methods"]:
        for metric, found in method["estimates"].items():
            pair = pairs.get((method["label"], metric), {})
            writer.writerow(
                [method["label"], metric, comparison["metrics"][metric]["unit"]]
                + [found[name] for name in ("n", "mean", "low", "high")]
                + [pair.get(name) for name in ("mean", "low", "high", "p", "p_corrected", "seeds_needed")]
            )
    return file.getvalue()


def as_latex(comparison: dict[str, Any]) -> str:
    """A booktabs tabular of means and half intervals, a row for each method.

    Bold marks what beats the baseline: its interval leaves zero out and the corrected p is below 0.05.
    """
    metrics = {
        metric: about
        for metric, about in comparison["metrics"].items()
        if any(metric in method["estimates"] for method in comparison["methods"])
    }
    pairs = {(pair["method"], pair["metric"]): pair for pair in comparison["pairs"]}
    heads = [
        escaped(about["name"] + (f" ({about['unit']})" if about["unit"] else ""))
        for about in metrics.values()
    ]
    lines = [
        "% needs \\usepackage{booktabs}; mean and half of the 95 % interval over seeds",
        "\\begin{tabular}{l" + "r" * len(metrics) + "}",
        "\\toprule",
        " & ".join(["Method", *heads]) + " \\\\",
        "\\midrule",
    ]
    for method in comparison["methods"]:
        row = [escaped(method["label"])]
        for metric, about in metrics.items():
            found = method["estimates"].get(metric)
            pair = pairs.get((method["label"], metric))
            row.append(
                "--"
                if found is None
                else _number(found, about, bold=pair is not None and beats(pair, about))
            )
        lines.append(" & ".join(row) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def beats(pair: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether a pair's method is shown to be better than the baseline in the metric ``about`` describes."""
    if not settled(pair):
        return False
    return bool((pair["mean"] > 0) == about["higher_is_better"])


def settled(pair: dict[str, Any]) -> bool:
    """Whether a pair's difference is shown: the interval leaves zero out and the corrected p is small."""
    if pair["p_corrected"] is None:
        return False
    return bool((pair["low"] > 0 or pair["high"] < 0) and pair["p_corrected"] < LEVEL)


def decimals(about: dict[str, Any]) -> int:
    """How many of a metric's digits after the point are worth reading."""
    return {"%": 2, "images/s": 0}.get(about["unit"], 3)


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _number(found: dict[str, Any], about: dict[str, Any], *, bold: bool) -> str:
    places = decimals(about)
    mean = f"{found['mean']:.{places}f}"
    if bold:
        mean = f"\\mathbf{{{mean}}}"
    if found["low"] is None:
        return f"${mean}$"
    return f"${mean} \\pm {found['high'] - found['mean']:.{places}f}$"
