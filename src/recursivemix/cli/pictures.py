"""Commands that draw mixing and what networks look at."""

from __future__ import annotations

from functools import wraps
from typing import Any

from recursivemix.explain import activation
from recursivemix.explain import preview as previews
from recursivemix.explain import statistics as process
from recursivemix.explain import studio as live

from .errors import usage_errors


@wraps(previews.preview)
def preview(**options: Any) -> None:
    """Print the file."""
    with usage_errors():
        print(previews.preview(**options))


@wraps(activation.explain)
def explain(**options: Any) -> None:
    """Print the file, and the feature map of each network."""
    with usage_errors():
        out, maps = activation.explain(**options)
    for line in maps:
        print(f"feature map of {line}")
    print(out)


@wraps(process.statistics)
def statistics(**options: Any) -> None:
    """Print the numbers as tables."""
    from rich.console import Console
    from rich.table import Table

    with usage_errors():
        measured, record = process.statistics(**options)
    table = Table(title=f"{measured.mixer}, {measured.images} images", show_header=False)
    for name, value in process.summary_rows(measured, record):
        table.add_row(name, value)
    Console().print(table)
    ages = Table(title="means by age")
    columns = [
        "source",
        "label",
        "pixels",
        "scale",
        *(["label, closed form"] if record["closed_form"] else []),
    ]
    for name in columns:
        ages.add_column(name)
    for row in process.rows_by_age(measured, record):
        ages.add_row(*row)
    Console().print(ages)
    if options["out"] is not None:
        print(options["out"])


@wraps(live.serve)
def studio(**options: Any) -> None:
    """Serve until Ctrl-C."""
    with usage_errors():
        live.serve(**options, tell=lambda line: print(line, flush=True))
