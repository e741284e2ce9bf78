"""Commands that draw mixing and what networks look at."""

from __future__ import annotations

from functools import wraps
from typing import Any

from recursivemix.explain import activation, server, statistics_plots
from recursivemix.explain import preview as previews
from recursivemix.explain import statistics as process

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
    for name, value in statistics_plots.summary_rows(measured, record):
        table.add_row(name, value)
    Console().print(table)
    by_age = statistics_plots.age_table(measured, record)
    ages = Table(*by_age.columns, title=by_age.caption)
    for row in by_age.rows:
        ages.add_row(*row)
    Console().print(ages)
    if options["out"] is not None:
        print(options["out"])


@wraps(server.serve)
def studio(**options: Any) -> None:
    """Serve until Ctrl-C."""
    with usage_errors():
        server.serve(**options, tell=lambda line: print(line, flush=True))
