"""Lightning's Trainer as every run uses it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .average import LastEpochsAverage
from .checkpoints import CheckpointIO
from .devices import launched_devices, lightning_precision
from .settings import RunSettings
from .synced_norms import SyncedNorms


def make_trainer(
    settings: RunSettings,
    folder: Path,
    callbacks: list[Callback],
    trainer_options: dict[str, Any],
    first_step: int | None = None,
) -> Trainer:
    """Create Lightning's Trainer with the moving average, a TensorBoard log, and checkpoints.

    Args:
        settings: of the run.
        folder: of the run.
        callbacks: those of every run, the last one for checkpoints.
        trainer_options: arguments of the Trainer that override the settings.
        first_step: first step of a resumed run; later points of an earlier TensorBoard log are dropped.

    Raises:
        ValueError: options that Lightning refuses, or that break the exactness of a run.
    """
    if settings.ema_decay is not None:
        average = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))  # type: ignore[no-untyped-call]
        callbacks = [average, *callbacks]
    if settings.average_last is not None:
        callbacks = [LastEpochsAverage(settings.average_last), *callbacks]
    options: dict[str, Any] = {
        "default_root_dir": folder,
        "max_epochs": settings.epochs,
        "accelerator": settings.device,
        "devices": settings.devices or launched_devices(),
        "precision": lightning_precision(settings.precision, settings.device),
        "accumulate_grad_batches": settings.grad_accum_steps,
        "gradient_clip_val": settings.clip or None,
        "check_val_every_n_epoch": settings.evaluate_every,
        "sync_batchnorm": settings.sync_batchnorm,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 50,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the loaders shard the data
        "logger": TensorBoardLogger(folder, name="tensorboard", version="", purge_step=first_step),
    } | trainer_options
    check_trainer_options(options)
    options["callbacks"] = [*callbacks[:-1], *_listed(options.get("callbacks")), callbacks[-1]]
    synced = [SyncedNorms()] if options["sync_batchnorm"] else []
    options["plugins"] = [CheckpointIO(), *synced, *_listed(options.get("plugins"))]
    try:
        with quiet_lightning():
            return Trainer(**options | {"enable_checkpointing": True})
    except (MisconfigurationException, ValueError) as error:
        raise ValueError(f"Lightning's Trainer refuses: {error}") from error


def check_trainer_options(options: dict[str, Any]) -> None:
    """Raise ValueError for options of the Trainer that a run cannot honour."""
    for name in ("limit_train_batches", "limit_val_batches", "max_epochs"):
        if options.get(name) == 0:
            raise ValueError(
                f"--trainer.{name.replace('_', '-')} 0 leaves nothing to train or to evaluate: give more"
            )
    if (options["max_epochs"] or 1) < 1:
        raise ValueError("--trainer.max-epochs must be at least 1: the learning-rate schedule needs an end")
    if options.get("val_check_interval") not in (None, 1.0):
        raise ValueError(
            "--trainer.val-check-interval is not supported: the score is measured at the end of an epoch; "
            "use --evaluate-every N to measure it less often"
        )
    if options.get("enable_checkpointing") is False:
        raise ValueError(
            "--trainer.enable_checkpointing must be true: a run without checkpoints cannot be resumed"
        )


def create_loggers(settings: RunSettings, folder: Path) -> list[Logger]:
    """Create the loggers of ``--loggers``; they write, or contact their server, at once.

    Raises:
        MisconfigurationException: a logger that does not start.
    """
    loggers: list[Logger] = []
    for name in settings.loggers:
        try:
            if name == "wandb":
                loggers.append(WandbLogger(project="recursivemix", name=folder.name, save_dir=folder))
            else:
                address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
                loggers.append(MLFlowLogger("recursivemix", folder.name, tracking_uri=address))
            _ = loggers[-1].experiment  # type: ignore[attr-defined]  # connect now, not at the first metric
        except Exception as error:  # whatever a tracking server raises
            raise MisconfigurationException(f"--loggers [{name}]: {error}") from error
    return loggers


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips and its advice for large machines; other warnings are still shown."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # From Lightning's own use of torch; users cannot fix it.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            # Of DDP, about 1x1 convolutions in channels_last, whose strides are ambiguous.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet_tensorboard() -> Iterator[None]:
    """Report a TensorBoard log that cannot be written in one line, without its thread's traceback."""
    original = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        ours = type(failure.thread).__module__.startswith("tensorboard.")
        if ours and isinstance(failure.exc_value, OSError):
            print(f"the TensorBoard log cannot be written: {failure.exc_value}", file=sys.stderr)
        else:
            original(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = original


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
