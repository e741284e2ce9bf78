"""Commands that measure a checkpoint."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from recursivemix.evaluation.evaluate import evaluate_checkpoint, evaluation_rows

from .errors import usage_errors


@wraps(evaluate_checkpoint)
def evaluate(**options: Any) -> None:
    """Print the summary numbers."""
    from rich.console import Console
    from rich.table import Table

    with usage_errors():
        evaluation = evaluate_checkpoint(**options)
    table = Table(show_header=False)
    for row in evaluation_rows(evaluation):
        table.add_row(*row)
    Console().print(table)


@wraps(evaluate_checkpoint)
def test(**options: Any) -> None:
    """Run evaluate under its old name."""
    print("recursivemix test is now recursivemix evaluate", file=sys.stderr)
    evaluate(**options)
