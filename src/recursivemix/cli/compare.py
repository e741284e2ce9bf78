"""Commands that compare methods over seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recursivemix.compare.settings import BackboneSettings, CompareSettings

from .errors import Interrupted, failed_runs, usage_errors


def compare(settings: CompareSettings) -> None:
    """Train several methods with several seeds, evaluate every run, and write one page.

    Examples:
        recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --budget 2h --dry-run
        recursivemix compare --data DIR --mixers none,cutmix,recursivemix --seeds 3 --epochs 30 --out DIR
        recursivemix compare --task detection --data DIR --settings.backbone FILE --seeds 3
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from recursivemix.compare.compare import compare, plan_lines, with_epochs
    from recursivemix.compare.grid import check_grid
    from recursivemix.compare.pace import measure
    from recursivemix.compare.processes import GridStoppedError
    from recursivemix.training.checkpoints import StoppedError

    try:
        with usage_errors(MisconfigurationException):
            if settings.data is not None and settings.data.exists():
                settings = replace(settings, data=settings.data.absolute())  # runs may start elsewhere
            check_grid(settings)
            settings, paces = with_epochs(settings)
            if settings.dry_run:
                print("\n".join(plan_lines(settings, paces or measure(settings))))
                return
            counts = f"methods: {len(settings.labels)}, seeds: {settings.seeds}"
            print(f"{counts}, epochs of each run: {settings.given_epochs}", flush=True)
            comparison, problems = compare(settings, lambda line: print(line, flush=True))
    except (GridStoppedError, StoppedError, KeyboardInterrupt) as error:
        raise Interrupted("stopped; the same command resumes the comparison") from error
    conclude(comparison, settings.out)
    if problems:
        raise failed_runs(problems)


def transfer_compare(settings: BackboneSettings) -> None:
    """Train a backbone with each method, transfer each, and write one page: compare with --pretrain.

    Examples:
        recursivemix transfer compare --task detection --data DIR --mixers none,recursivemix --out DIR
    """
    compare(settings)


def report(
    folder: Path,
    /,
    *,
    baseline: str | None = None,
    json: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
) -> None:
    """Rebuild the page of a comparison from its records, also while it is running.

    Args:
        folder: Folder of the comparison.
        baseline: Method to compare the others with (default: as in the comparison).
        json: File to write the table of methods to, as JSON.
        csv: File to write the table of methods to, as CSV.
        latex: File to write the table of methods to, as LaTeX.
    """
    from recursivemix.compare.compare import report as make_report
    from recursivemix.data.atomic_write import write_text
    from recursivemix.report.table import as_csv, as_json, as_latex
    from recursivemix.tune.tune import check_not_search

    with usage_errors():
        check_not_search(folder)
        comparison = make_report(folder, baseline)
        for file, table in ((json, as_json), (csv, as_csv), (latex, as_latex)):
            if file is not None:
                write_text(file, table(comparison))
    conclude(comparison, folder)


def conclude(comparison: dict[str, Any], folder: Path) -> None:
    """Print the answer and the path of the page."""
    print(comparison["answer"])
    print(f"page: {folder / 'page.html'}")
