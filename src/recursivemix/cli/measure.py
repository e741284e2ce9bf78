"""Commands that measure a checkpoint."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Any

from recursivemix.evaluation.evaluate import evaluate_checkpoint
from recursivemix.evaluation.measure import measure_checkpoint

from .errors import UsageError, usage_errors


@wraps(evaluate_checkpoint)
def evaluate(**options: Any) -> None:
    """Print what a checkpoint is worth, and keep the record."""
    from recursivemix.report.records import environment, write_json

    out = options.pop("out", None)
    with usage_errors():
        evaluation = evaluate_checkpoint(**options)
    if out is not None:
        try:
            write_json(out, environment(gpu=options["device"] != "cpu") | evaluation)
        except OSError as error:
            raise UsageError(f"cannot write {out} (--out): {error}") from error
    print_evaluation(evaluation)


@wraps(measure_checkpoint)
def test(**options: Any) -> None:
    """Print a checkpoint's accuracy and loss."""
    from rich.console import Console
    from rich.table import Table

    print("recursivemix test is now a part of recursivemix evaluate", file=sys.stderr)
    with usage_errors():
        metrics = measure_checkpoint(**options)
    table = Table(show_header=False)
    table.add_row("accuracy", f"{metrics['acc1']:.2f} %")
    table.add_row("loss", f"{metrics['val_loss']:.4f}")
    Console().print(table)


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Print the short table of an evaluation."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    accuracy = evaluation["accuracy"]
    rows: list[tuple[str, float | None, str]] = [
        ("accuracy", accuracy["top1"], " %"),
        ("top-5 accuracy", accuracy["top5"], " %"),
        ("negative log-likelihood", evaluation["nll"], ""),
        ("Brier score", evaluation["brier"], ""),
        ("calibration error (ECE)", evaluation["ece"], " %"),
        ("accuracy under corruption", evaluation["corruption_mean"], " %"),
        ("accuracy under occlusion", evaluation["occlusion_mean"], " %"),
        ("accuracy on shrunk objects", evaluation["scale_mean"], " %"),
        ("four images in one, found in the top 4", (evaluation["multiple"] or {}).get("top4"), " %"),
        ("activation in the right quarter", (evaluation["localisation"] or {}).get("pointing"), " %"),
    ]
    for name, value, unit in rows:
        if value is not None:
            table.add_row(name, f"{value:.2f}{unit}" if unit else f"{value:.4f}")
    Console().print(table)
