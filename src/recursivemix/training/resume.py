"""Check a checkpoint that a run is to be resumed from, and turn failures to restore it into one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException

from recursivemix.data.annotated import AnnotationError
from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.printable import one_line
from recursivemix.models.checkpoint_file import CheckpointError

from .checkpoints import NonFiniteLossError, StoppedError
from .learner import Learner

TABLES = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "ranks": list,
    "RunLoaders": dict,
}
"""Entries of a checkpoint that resuming needs besides the network, with their types."""
CALLBACKS = ("EpochLog", "Checkpoints")
"""Callbacks whose state resuming needs."""
NOT_OF_THE_CHECKPOINT = (
    CheckpointError,
    NonFiniteLossError,
    StoppedError,
    UnreadableImageError,
    AnnotationError,
    MisconfigurationException,
    OSError,
    MemoryError,
    torch.OutOfMemoryError,
)
"""Errors of a resumed run that its checkpoint does not cause."""


class ResumeError(ValueError):
    """A checkpoint that a run cannot be resumed from; the message says why."""


def check_resume(
    checkpoint: dict[str, Any], path: Path, learner: Learner, trainer: Trainer, changed: bool
) -> None:
    """Raise ResumeError if a run cannot be resumed from a checkpoint, or not exactly.

    Args:
        checkpoint: its content.
        path: its file.
        learner: of the run.
        trainer: of the run.
        changed: accept another number of processes or training images.
    """
    saved, hparams = checkpoint["hyper_parameters"], learner.hparams
    for name in learner.identity:
        if saved.get(name) != hparams[name]:
            raise ResumeError(
                f"the checkpoint {path} is of another run: its {name} is {saved.get(name)}, here it is "
                f"{hparams[name]}"
            )
    try:
        loop = checkpoint["loops"]["fit_loop"]
        epochs_begun, done = (int(loop["epoch_progress"]["total"][name]) for name in ("ready", "processed"))
        is_cut = epochs_begun == done and not loop["epoch_loop.batch_progress"]["is_last_batch"]
        images = int(saved["data"]["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(
            f"the run cannot be resumed from {path}: the number of its epochs or training images is missing"
        ) from error
    epochs, stopping = trainer.max_epochs, checkpoint["callbacks"]["Checkpoints"]
    # A run that was killed between its last checkpoint and its record only has the record to write.
    has_record = (path.parents[1] / "record.json").exists()
    if epochs is not None and done >= epochs and has_record:
        raise ResumeError(f"the run is finished: {path} is of epoch {done} of {epochs}")
    same_patience = not changed or stopping.get("patience") == learner.settings.early_stop
    if stopping.get("stopped_early") and same_patience and has_record:
        raise ResumeError(
            f"the run is finished: --early-stop ended it after epoch {done}; to train on, add "
            f"--resume-changed and another --early-stop"
        )
    if trainer.max_steps != -1:
        raise ResumeError("a run cannot be resumed exactly with --trainer.max-steps: use --epochs")
    if is_cut and not changed:
        raise ResumeError(
            f"the run ended within epoch {done}, as with --trainer.max-time: it cannot be resumed exactly; "
            f"add --resume-changed to go on with the next epoch"
        )
    counts = {
        "processes": (len(checkpoint["ranks"]), trainer.world_size),
        "training images": (images, hparams["data"]["images"]),
    }
    for name, (before, now) in counts.items():
        if before != now and not changed:
            raise ResumeError(
                f"the run had {before} {name}, now there are {now}: add --resume-changed to resume anyway"
            )


def check_tables(checkpoint: dict[str, Any], path: Path) -> None:
    """Raise ResumeError unless a checkpoint has the entries that resuming needs."""
    if not {"ranks", "optimizer_states", "loops"} & checkpoint.keys():
        raise ResumeError(f"{path} holds weights only: a run cannot be resumed from it")
    for name, kind in TABLES.items():
        value: Any = checkpoint.get(name)
        other = type(value) is not kind
        if other:
            found = f"is {type(value).__name__}, expected {kind.__name__}"
            found = found if name in checkpoint else "is missing"
        elif kind is int and not is_count(value):
            found = f"must be at least 0, got {value}"
        elif kind is list and not (value and all(isinstance(state, dict) for state in value)):
            found = "must be a list of tables"
        elif name == "RunLoaders" and not is_count(value.get("next_step")):
            found = f"must hold the next_step, got {value.get('next_step')!r}"
        elif name == "callbacks" and not all(isinstance(value.get(key), dict) for key in CALLBACKS):
            found = f"must hold the states of {' and '.join(CALLBACKS)}"
        else:
            continue
        raise ResumeError(f"the run cannot be resumed from {path}: its {name} {found}")


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 0."""
    return type(value) is int and value >= 0


@contextmanager
def restoring(path: Path | None, is_restored: Callable[[], bool]) -> Iterator[None]:
    """Raise ResumeError instead of the errors that a malformed checkpoint leads to.

    Args:
        path: of the checkpoint; None does nothing.
        is_restored: tells whether the run uses the checkpoint no longer.
    """
    try:
        yield
    except Exception as error:
        if path is None or is_restored() or isinstance(error, NOT_OF_THE_CHECKPOINT):
            raise
        raise ResumeError(
            f"the run cannot be resumed from {path}: {type(error).__name__}: {one_line(error)}"[:500]
        ) from error
