"""Prepare a run: check everything and create all parts; write nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer, seed_everything

from recursivemix.models.checkpoint_file import CheckpointError, read_checkpoint

from .checkpoints import Checkpoints
from .devices import check_device, launched_processes, launched_rank
from .epoch_log import EpochLog
from .learner import Learner
from .loaders import RunLoaders
from .optimizer import check_optimizer
from .resume import ResumeError, check_resume, check_tables, restoring
from .settings import RunSettings
from .task import RunData, Task, task_of
from .trainer import make_trainer
from .trainer_classes import instantiated

FOLDER_VARIABLE = "RECURSIVEMIX_RUN_FOLDER"
"""Tells processes that Lightning starts the run folder that the first one chose."""

LEFT_BEHIND = {
    "config.yaml", "metrics.csv", "skipped.txt", "mixed_batches.png", "checkpoints", "tensorboard",
    ".config.yaml.part", ".metrics.csv.part", ".skipped.txt.part", ".mixed_batches.png.part", "mlflow.db",
    "wandb",
}  # fmt: skip
"""What a run writes before its first checkpoint."""


class RunFolderError(ValueError):
    """The run folder is in use, or cannot be written."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed every check and has written nothing yet."""

    task: Task
    settings: RunSettings
    """As given; ``learner.settings`` has the defaults that depend on data and backbone."""
    trainer_options: dict[str, Any]
    """As given to `prepare`."""
    data: RunData
    learner: Learner
    loaders: RunLoaders
    folder: Path
    log: EpochLog
    trainer: Trainer
    resume: Path | None
    """The checkpoint it resumes from."""


def prepare(
    settings: RunSettings,
    callbacks: Sequence[Callback] = (),
    trainer_options: dict[str, Any] | None = None,
    resume: Path | None = None,
    changed: bool = False,
) -> PreparedRun:
    """Open the data; create network, mixer, loaders and trainer. Write nothing.

    Args:
        settings: of the task.
        callbacks: additional callbacks.
        trainer_options: arguments of Lightning's Trainer that override the settings. Objects may be given
            as in a YAML file, by ``class_path`` and ``init_args``; only then can ``config.yaml`` keep them.
        resume: checkpoint of the run to resume, in RUN/checkpoints.
        changed: resume also with other data or another number of processes; not exact then.

    Raises:
        ValueError: settings, data or a checkpoint that cannot be used; the message says how to fix it.
    """
    task, options = task_of(settings), dict(trainer_options or {})
    settings = settings.with_absolute_paths()
    for package in task.packages:
        if find_spec(package) is None:
            raise ValueError(f"{task.command} needs {package}: pip install 'recursivemix[transfer]'")
    check_optimizer(settings)
    check_device(settings.device)
    checkpoint = None
    if resume is not None:
        checkpoint = read_checkpoint(resume)
        check_tables(checkpoint, resume)
    folder = None if resume is None else resume.absolute().parent.parent
    if folder is None and settings.out is not None:
        folder = run_folder(settings.out)
    try:
        data = task.open_data(settings, checkpoint)
    except CheckpointError as error:
        raise ResumeError(f"the run cannot be resumed from {resume}: {error}") from error
    seed_everything(settings.seed, verbose=False)  # of the initial weights
    with restoring(resume, lambda: False):
        learner = task.create_learner(settings, data, checkpoint)
    folder = folder or run_folder(None, task.name_run(learner.settings))
    loaders = RunLoaders(task.create_loading(settings, data), settings)
    learner.order = loaders.order
    log = EpochLog(folder / "metrics.csv", learner)
    writer = Checkpoints(
        folder / "checkpoints", settings.checkpoint_every, data.train.name, settings.early_stop
    )
    trainer = make_trainer(
        learner.settings,
        folder,
        [log, *callbacks, writer],
        instantiated(options),
        None if checkpoint is None else int(checkpoint["global_step"]) + 1,
    )
    if resume is not None and checkpoint is not None:
        check_resume(checkpoint, resume, learner, trainer, changed)
    return PreparedRun(task, settings, options, data, learner, loaders, folder, log, trainer, resume)


def is_abandoned(folder: Path) -> bool:
    """Return whether a folder is empty, or of a run that was killed before its first checkpoint."""
    names = {path.name for path in folder.iterdir()}
    is_of_a_run = names <= LEFT_BEHIND and not any((folder / "checkpoints").glob("*.ckpt"))
    return not names or (is_of_a_run and ("config.yaml" in names or names <= {".config.yaml.part"}))


def run_folder(out: Path | None, name: str = "run") -> Path:
    """Return the folder of a new run, the same for all its processes; creates nothing.

    Args:
        out: as requested; None makes a name from date, time and ``name``.
        name: of the run.

    Raises:
        RunFolderError: the folder is not empty, or several processes would choose different ones.
    """
    known, rank = os.environ.get(FOLDER_VARIABLE), launched_rank()
    if rank > 0 and known is not None:
        return Path(known)
    if out is None and known is None and launched_processes() > 1:
        raise RunFolderError("--out is required with several processes: they must agree on the run folder")
    folder = out or Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{name}")
    if rank == 0 and folder.exists() and not (folder.is_dir() and is_abandoned(folder)):
        more = f", or resume the run with --resume {folder}" if (folder / "checkpoints").is_dir() else ""
        raise RunFolderError(f"the run folder {folder} already exists: choose a new one with --out{more}")
    return folder
