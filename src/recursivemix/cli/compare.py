"""Commands that compare methods over seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from recursivemix.compare.grid import CompareConfig
from recursivemix.compare.transfer_compare import TransferCompareConfig

from .errors import Failed, Interrupted, usage_errors

ConfigT = TypeVar("ConfigT", CompareConfig, TransferCompareConfig)
RESUME = "stopped; the same command resumes the comparison"


def compare(settings: CompareConfig) -> None:
    """Train several methods with several seeds, evaluate every run, and write one page.

    Examples:
        recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --budget 2h --dry-run
        recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --epochs 30 --out DIR
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from recursivemix.compare.compare import compare, plan_lines, with_epochs
    from recursivemix.compare.estimate import measure
    from recursivemix.compare.grid import open_grid
    from recursivemix.training.checkpoints import StoppedError
    from recursivemix.training.commands import GridStoppedError

    try:
        with usage_errors(MisconfigurationException):
            settings = with_absolute_data(settings)
            data = open_grid(settings)
            settings, paces = with_epochs(settings)
            if settings.dry_run:
                print("\n".join(plan_lines(settings, paces or measure(settings))))
                return
            print(f"{len(settings.labels)} methods x {settings.seeds} seeds, {settings.epochs} epochs each")
            comparison, problems = compare(settings, data, say)
    except (GridStoppedError, StoppedError, KeyboardInterrupt) as error:
        raise Interrupted(RESUME) from error
    conclude(comparison, problems, settings.out)


def transfer_compare(settings: TransferCompareConfig) -> None:
    """Train a backbone with each method, transfer each, and write one page.

    Examples:
        recursivemix transfer compare --task detection --data DIR --mixers none,recursivemix --out DIR
    """
    from recursivemix.compare.transfer_compare import compare
    from recursivemix.training.commands import GridStoppedError

    try:
        with usage_errors():
            settings = with_absolute_data(settings)
            comparison, problems = compare(settings, say)
    except (GridStoppedError, KeyboardInterrupt) as error:
        raise Interrupted(RESUME) from error
    conclude(comparison, problems, settings.out)


def report(
    folder: Path, /, *, json: Path | None = None, csv: Path | None = None, latex: Path | None = None
) -> None:
    """Rebuild the page of a comparison from its records.

    Args:
        folder: Folder of the comparison.
        json: File to write the table of methods to, as JSON.
        csv: File to write the table of methods to, as CSV.
        latex: File to write the table of methods to, as LaTeX.
    """
    from recursivemix.compare import compare, transfer_compare
    from recursivemix.report.records import write_text
    from recursivemix.report.table import as_csv, as_json, as_latex

    with usage_errors():
        transferred = (folder / transfer_compare.COMPARISON).is_file()
        comparison = (transfer_compare if transferred else compare).rebuild(folder)
        for file, table in ((json, as_json), (csv, as_csv), (latex, as_latex)):
            if file is not None:
                write_text(file, table(comparison))
    conclude(comparison, {}, folder)


def with_absolute_data(settings: ConfigT) -> ConfigT:
    """Return settings with an absolute path of the data: runs may start in other folders."""
    if settings.data is None or not settings.data.exists():
        return settings
    return replace(settings, data=settings.data.absolute())


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def conclude(comparison: dict[str, Any], problems: dict[str, str], folder: Path) -> None:
    """Print the answer and where the page is.

    Raises:
        Failed: runs failed.
    """
    print(comparison["answer"])
    print(f"page: {folder / 'page.html'}")
    if problems:
        raise Failed(f"{len(problems)} runs failed: {'; '.join(problems.values())}")
