"""Commands that measure a checkpoint."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from recursivemix.evaluation.checkpoint import measure_checkpoint
from recursivemix.evaluation.evaluate import evaluate_checkpoint, evaluation_rows

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
    """Print the summary numbers of an evaluation."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for row in evaluation_rows(evaluation):
        table.add_row(*row)
    Console().print(table)
