"""Commands that measure a checkpoint."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from recursivemix.evaluation.evaluate import evaluate_checkpoint, evaluation_rows

from .errors import UsageError, usage_errors


@wraps(evaluate_checkpoint)
def evaluate(**options: Any) -> None:
    """Print what a checkpoint is worth, and keep the record."""
    from rich.console import Console
    from rich.table import Table

    from recursivemix.report.records import environment, write_json

    out = options.pop("out", None)
    with usage_errors():
        evaluation = evaluate_checkpoint(**options)
    if out is not None:
        try:
            write_json(out, environment(gpu=options["device"] != "cpu") | evaluation)
        except OSError as error:
            raise UsageError(f"cannot write {out} (--out): {error}") from error
    table = Table(show_header=False)
    for row in evaluation_rows(evaluation):
        table.add_row(*row)
    Console().print(table)


@wraps(evaluate_checkpoint)
def test(**options: Any) -> None:
    """Run evaluate under its old name."""
    print("recursivemix test is now a part of recursivemix evaluate", file=sys.stderr)
    evaluate(**options)
