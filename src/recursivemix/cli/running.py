"""Train from the command line, and turn failures into one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recursivemix.data.annotated import AnnotationError
from recursivemix.data.atomic_write import finite
from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.printable import printable
from recursivemix.models.checkpoint_file import CheckpointError
from recursivemix.report.predictions import write_predictions
from recursivemix.tasks import METRIC_NAMES
from recursivemix.training.checkpoints import NonFiniteLossError, StoppedError
from recursivemix.training.devices import is_lost_process, precision_notes
from recursivemix.training.fit import fit
from recursivemix.training.folder_lock import FolderInUseError
from recursivemix.training.optimizer import schedule_notes
from recursivemix.training.prepare import PreparedRun, RunFolderError, prepare
from recursivemix.training.record import Result
from recursivemix.training.resume import ResumeError
from recursivemix.training.settings import RunSettings
from recursivemix.training.trainer_classes import is_trusted

from .errors import Failed, Interrupted, UsageError, one_line, usage_errors

USER_ERRORS = (
    UnreadableImageError,
    AnnotationError,
    MisconfigurationException,
    ResumeError,
    RunFolderError,
    FolderInUseError,
)
"""Errors of a run that the user can fix."""


def transfer(
    settings: RunSettings, trainer_options: dict[str, Any], resume: Path | None, changed: bool
) -> None:
    """Train a detector or segmenter as `train` does, and draw predictions into the run folder."""
    train(settings, trainer_options, resume, changed, draw=draw_predictions)


def draw_predictions(run: Any) -> None:
    """Draw predictions of a detector or segmenter into its run folder."""
    write_predictions(run.learner, run.data, run.folder / "predictions.png")


def train(
    settings: RunSettings,
    trainer_options: dict[str, Any],
    resume: Path | None,
    changed: bool,
    *callbacks: Callback,
    draw: Callable[[PreparedRun], None] | None = None,
) -> None:
    """Train and print the result; only the first process prints.

    Args:
        settings: of the task.
        trainer_options: arguments of Lightning's Trainer.
        resume: checkpoint to resume from.
        changed: resume although data or the number of processes differ.
        callbacks: additional callbacks.
        draw: writes pictures into the run folder.

    Raises:
        UsageError, Failed, Interrupted: in one line.
    """
    with usage_errors():
        run = prepare(settings, callbacks, trainer_options, resume, changed)
    first = run.trainer.is_global_zero
    if first:
        epochs = run.trainer.max_epochs or run.settings.epochs
        notes = [*run.learner.notes, *schedule_notes(run.settings, epochs)]
        for note in notes + precision_notes(run.settings.precision, run.settings.device):
            print(note)
        skipped = getattr(run.data, "skipped", ())
        if skipped:
            print(f"left out {len(skipped)} unreadable files, see {run.folder / 'skipped.txt'}")
    try:
        result = fit(run, draw)
    except (StoppedError, NonFiniteLossError, CheckpointError) as error:
        if not first:
            return  # all processes stop; the exit code of the first one counts
        if isinstance(error, StoppedError):
            raise Interrupted(f"{error}; {resume_hint(run)}") from error
        raise Failed(one_line(error)) from error
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the one into the other
        raise Interrupted(f"interrupted; {resume_hint(run)}") from error
    except USER_ERRORS as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise Failed(one_line(error)) from error
    except RuntimeError as error:
        if run.trainer.world_size == 1 or not is_lost_process(error):
            raise
        raise Failed(
            f"another process of the run has ended ({one_line(error)}); {resume_hint(run)}"
        ) from error
    if first:
        print_result(run, result)


def resume_hint(run: PreparedRun) -> str:
    """Return the command that resumes a run, if it has a checkpoint."""
    if not any((run.folder / "checkpoints").glob("*.ckpt")):
        return "nothing was kept"
    trust = "" if is_trusted(run.trainer_options) else " --trust-config"
    return f"resume with: recursivemix {run.task.command} --resume {run.folder}{trust}"


def print_result(run: PreparedRun, result: Result) -> None:
    """Print the metrics of the last epoch, the best score, and the cost of a run."""
    learner, last = run.learner, result.rows[-1]
    table = Table(title=f"{learner.hparams['model']}, {run.settings.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # show paths in full
    name = METRIC_NAMES[result.score]
    images = f"{result.evaluated} images ({run.data.split})"
    if finite(result.last) is None:  # no object, or no labelled pixel
        table.add_row(name, f"- (nothing is annotated in {images})")
    else:
        table.add_row(f"{name}, last epoch", f"{result.last:.2f} % of {images}")
        table.add_row(f"{name}, best epoch", f"{result.best:.2f} % (epoch {result.best_epoch})")
    for metric in learner.evaluated:
        value = finite(last.get(metric))
        if metric != result.score:
            unit = "" if "loss" in metric else " %"
            table.add_row(METRIC_NAMES[metric], "-" if value is None else f"{value:.2f}{unit}")
    if run.settings.early_stop is not None and len(result.rows) < (run.trainer.max_epochs or 0):
        table.add_row("stopped early", f"after epoch {len(result.rows)} of {run.trainer.max_epochs}")
    if run.settings.average_last is not None:
        words = (
            f"average of the last {run.settings.average_last} epochs, in the last evaluation and last.ckpt"
        )
        table.add_row("weights", words)
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.1f} images/s")
    feature_map = learner.record().get("feature_map")
    if feature_map is not None:
        table.add_row("feature map of the region head", feature_map)
    table.add_row("run folder", escape(printable(str(result.folder))))
    Console().print(table)
    advice = learner.advice(last)
    if advice is not None:
        print(advice)
