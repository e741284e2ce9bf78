"""The table at the end of a training run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from recursivemix.tasks import METRIC_NAMES
from recursivemix.training.prepare import PreparedRun
from recursivemix.training.record import Result, finite


def print_result(run: PreparedRun, result: Result) -> None:
    """Print the metrics of the last epoch, the best score, and the cost of a run."""
    learner, last = run.learner, result.rows[-1]
    table = Table(title=f"{learner.hparams['model']}, {run.settings.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # show paths in full
    name = METRIC_NAMES[result.score]
    images = f"{result.evaluated} images ({run.data.split})"
    table.add_row(f"{name}, last epoch", f"{result.last:.2f} % of {images}")
    table.add_row(f"{name}, best epoch", f"{result.best:.2f} % (epoch {result.best_epoch})")
    for metric in learner.evaluated:
        value = finite(last.get(metric))
        if metric != result.score:
            table.add_row(METRIC_NAMES[metric], "-" if value is None else f"{value:.2f}")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.1f} images/s")
    feature_map = learner.record().get("feature_map")
    if feature_map is not None:
        table.add_row("feature map of the region head", feature_map)
    table.add_row("run folder", str(result.folder))
    Console().print(table)
