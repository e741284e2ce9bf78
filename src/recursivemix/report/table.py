"""Export the table of methods for other programs: JSON, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from recursivemix.data.atomic_write import json_text
from recursivemix.data.printable import HIDDEN

from .safe_cell import safe_cell
from .statistics import LEAST_SEEDS, LEVEL

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
CSV_COLUMNS = (
    "method", "metric", "unit", "n", "mean", "low", "high",
    "difference", "difference_low", "difference_high", "p", "p_corrected", "seeds_needed",
)  # fmt: skip


def as_json(comparison: dict[str, Any]) -> str:
    """Return estimates and differences to the baseline, as in ``comparison.json``."""
    methods = [
        {name: method[name] for name in ("label", "mixer", "options", "estimates")}
        for method in comparison["methods"]
    ]
    table = {name: comparison[name] for name in ("answer", "baseline", "metrics", "pairs")}
    return json_text({**table, "methods": methods})


def as_csv(comparison: dict[str, Any]) -> str:
    """Return a row per method and metric, with the difference to the baseline; missing values are empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    pairs = {(pair["method"], pair["metric"]): pair for pair in comparison["pairs"]}
    for method in comparison["methods"]:
        for metric, summary in method["estimates"].items():
            pair = pairs.get((method["label"], metric), {})
            words = (method["label"], metric, comparison["metrics"][metric]["unit"])
            writer.writerow(
                [safe_cell(word) for word in words]
                + [summary[name] for name in ("n", "mean", "low", "high")]
                + [pair.get(name) for name in ("mean", "low", "high", "p", "p_corrected", "seeds_needed")]
            )
    return file.getvalue()


def as_latex(comparison: dict[str, Any]) -> str:
    """Return a booktabs tabular of means and 95 % intervals, a row per method.

    Bold marks what beats the baseline: its interval excludes zero and the corrected p is below 0.05.
    """
    metrics = estimated_metrics(comparison)
    pairs = {(pair["method"], pair["metric"]): pair for pair in comparison["pairs"]}
    lines = [
        "% needs \\usepackage{booktabs}; mean and 95 % interval over seeds, none below three seeds",
        "\\begin{tabular}{l" + "r" * len(metrics) + "}",
        "\\toprule",
        " & ".join(["Method", *(escaped(titled(about)) for about in metrics.values())]) + " \\\\",
        "\\midrule",
    ]
    for method in comparison["methods"]:
        row = [escaped(method["label"])]
        for metric, about in metrics.items():
            summary = method["estimates"].get(metric)
            pair = pairs.get((method["label"], metric))
            row.append(
                "--"
                if summary is None
                else _number(summary, about, bold=pair is not None and beats(pair, about))
            )
        lines.append(" & ".join(row) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def estimated_metrics(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics of a comparison that any method has."""
    return {
        name: about
        for name, about in comparison["metrics"].items()
        if any(name in method["estimates"] for method in comparison["methods"])
    }


def titled(about: Mapping[str, Any]) -> str:
    """Return a metric's name with its unit."""
    return f"{about['name']} ({about['unit']})" if about["unit"] else str(about["name"])


def beats(pair: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Return whether a pair's method is shown to be better than the baseline in the metric ``about``."""
    return settled(pair) and (pair["mean"] > 0) == about["higher_is_better"]


def settled(pair: Mapping[str, Any]) -> bool:
    """Return whether a difference is shown: its interval excludes zero and the corrected p is below 0.05.

    Fewer than `LEAST_SEEDS` seeds show nothing about others, however many test images they share.
    """
    if pair["p_corrected"] is None or pair["n"] < LEAST_SEEDS:
        return False
    return bool((pair["low"] > 0 or pair["high"] < 0) and pair["p_corrected"] < LEVEL)


def decimals(about: Mapping[str, Any]) -> int:
    """Return how many digits of a metric to print after the point."""
    return {"%": 2, "images/s": 0}.get(about["unit"], 3)


def escaped(text: str) -> str:
    """Escape text for LaTeX; control characters and marks of the writing direction become spaces."""
    plain = HIDDEN.sub(" ", text).replace("\t", " ").replace("\n", " ")
    return "".join(LATEX.get(letter, letter) for letter in plain)


def _number(summary: dict[str, Any], about: dict[str, Any], *, bold: bool) -> str:
    places = decimals(about)
    mean = f"{summary['mean']:.{places}f}"
    shown = f"\\mathbf{{{mean}}}" if bold else mean
    if summary["low"] is None:
        return f"${shown}$"
    below = f"{summary['mean'] - summary['low']:.{places}f}"
    above = f"{summary['high'] - summary['mean']:.{places}f}"
    return f"${shown} \\pm {above}$" if above == below else f"${shown}_{{-{below}}}^{{+{above}}}$"
