"""Start a prepared run from the command line, and turn what goes wrong into one-line errors."""

from __future__ import annotations

import shutil
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from recursivemix.data.annotated import AnnotationError
from recursivemix.data.decode import UnreadableImageError
from recursivemix.models.checkpoint_file import CheckpointError
from recursivemix.report.records import environment, write_text
from recursivemix.training.checkpoints import NonFiniteLossError, StoppedError
from recursivemix.training.run import PreparedRun, Result, fit

from .errors import Failed, Interrupted, UsageError, one_line

AnyRun = PreparedRun[Any, Any, Any, Any]


def begin(run: AnyRun, config: dict[str, Any]) -> dict[str, Any]:
    """Create the run's folder with its settings; return the environment, for the record."""
    where = environment(gpu=run.config.device != "cpu")
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UsageError(f"cannot write the run folder {run.folder} (--out): {error}") from error
    return where


def follow(run: AnyRun) -> None:
    """Train on a process that is not the first; the first one reports."""
    try:
        fit(run)
    except (StoppedError, NonFiniteLossError, CheckpointError):
        return  # all processes stop; the exit code of the first one counts
    except (UnreadableImageError, AnnotationError, MisconfigurationException) as error:
        raise UsageError(one_line(error)) from error


def train(run: AnyRun, command: str) -> Result:
    """Train; turn failures into one-line errors; delete the run folder if it holds no checkpoint."""
    try:
        return fit(run)
    except BaseException as error:
        started = any((run.folder / "checkpoints").glob("*.ckpt"))
        if not started and run.resume is None:
            shutil.rmtree(run.folder, ignore_errors=True)
        hint = (
            f"resume with: recursivemix {command} --resume {run.folder}" if started else "nothing was kept"
        )
        if isinstance(error, StoppedError):
            raise Interrupted(f"{error}; {hint}") from error
        if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Lightning turns the one into the other
            raise Interrupted(f"interrupted; {hint}") from error
        if isinstance(error, (UnreadableImageError, AnnotationError, MisconfigurationException)):
            raise UsageError(one_line(error)) from error
        if isinstance(error, (NonFiniteLossError, CheckpointError, OSError)):
            raise Failed(one_line(error)) from error
        raise
