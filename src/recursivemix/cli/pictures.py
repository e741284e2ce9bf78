"""Commands that draw mixing and what networks look at."""

from __future__ import annotations

from functools import wraps
from typing import Any

from recursivemix.explain.explain import explain as draw_maps
from recursivemix.explain.preview import preview as draw_preview
from recursivemix.explain.serve import serve
from recursivemix.explain.statistics import statistics as measure_mixing

from .errors import usage_errors


@wraps(draw_preview)
def preview(**options: Any) -> None:
    """Print the file."""
    with usage_errors():
        print(draw_preview(**options))


@wraps(draw_maps)
def explain(**options: Any) -> None:
    """Print the file, and the feature map of each network."""
    with usage_errors():
        out, maps = draw_maps(**options)
    for line in maps:
        print(f"feature map of {line}")
    print(out)


@wraps(measure_mixing)
def statistics(**options: Any) -> None:
    """Print the numbers as tables."""
    from rich.console import Console
    from rich.table import Table

    from recursivemix.explain.statistics_plots import age_table, summary_rows

    with usage_errors():
        measured, record = measure_mixing(**options)
    table = Table(title=f"{measured.mixer}, {measured.images} images", show_header=False)
    for name, value in summary_rows(measured, record):
        table.add_row(name, value)
    Console().print(table)
    by_age = age_table(measured, record)
    ages = Table(*by_age.columns, title=by_age.caption)
    for row in by_age.rows:
        ages.add_row(*row)
    Console().print(ages)
    if options["out"] is not None:
        print(options["out"])


@wraps(serve)
def studio(**options: Any) -> None:
    """Serve until Ctrl-C."""
    with usage_errors():
        serve(**options, tell=lambda line: print(line, flush=True))
