"""Train a prepared run, and write its folder."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from recursivemix.data.atomic_write import write_json, write_text
from recursivemix.data.printable import encodable

from .devices import device_type
from .environment import environment
from .folder_lock import locked_folder
from .prepare import FOLDER_VARIABLE, PreparedRun, RunFolderError, is_abandoned
from .record import Result, run_record, settings_text
from .resume import restoring
from .settings import Device
from .trainer import create_loggers, quiet_lightning, quiet_tensorboard

RECORD = "record.json"
WRITTEN = ("config.yaml", "metrics.csv", RECORD)
"""Files of every run folder."""


def fit(run: PreparedRun, draw: Callable[[PreparedRun], None] | None = None) -> Result:
    """Train, and write settings, metrics, checkpoints, a TensorBoard log and ``record.json``.

    A run that fails before its first checkpoint leaves no folder behind. The record is written last: a
    folder that has one has all its files.

    Args:
        run: of `prepare`.
        draw: writes pictures of the trained network into the folder, on the first process.

    Raises:
        RunFolderError, FolderInUseError: the run folder cannot be written, or another process writes it.
        NonFiniteLossError: the loss or the weights are not finite; the last good checkpoint is kept.
        CheckpointError: a checkpoint cannot be written; the previous one is kept.
        StoppedError: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    started = environment(gpu=run.settings.device != "cpu")  # before any file of the package can change
    if not run.trainer.is_global_zero:
        return _train(run)
    try:
        with locked_folder(run.folder):
            return _fit_locked(run, started, draw)
    except OSError as error:
        if run.folder.is_dir():
            raise
        raise RunFolderError(f"cannot write the run folder {run.folder} (--out): {error}") from error


def _fit_locked(
    run: PreparedRun, started: dict[str, Any], draw: Callable[[PreparedRun], None] | None
) -> Result:
    """Train as the process that writes the folder."""
    _take_over(run)
    try:
        _start_folder(run)
        result = _train(run)
    except BaseException:
        if run.resume is None and not any((run.folder / "checkpoints").glob("*.ckpt")):
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
    if draw is not None:
        draw(run)
    write_json(run.folder / RECORD, run_record(run, result, started))
    return result


def compile_network(network: nn.Module, device: Device) -> None:
    """Compile a network in place, which keeps the names of its parameters."""
    # One graph per batch size: CUDA graphs need fixed shapes.
    network.compile(mode="reduce-overhead" if device_type(device) == "cuda" else "default", dynamic=False)


def _take_over(run: PreparedRun) -> None:
    """Remove what a killed process left: temporary files, and a run without a checkpoint.

    Raises:
        RunFolderError: another process has used the folder since this one was prepared.
    """
    if run.resume is None and any(run.folder.iterdir()):
        file = run.folder / "config.yaml"
        same = not file.is_file() or file.read_text("utf-8") == settings_text(run)
        if not (same and is_abandoned(run.folder)):
            raise RunFolderError(f"the run folder {run.folder} already exists: choose a new one with --out")
        for path in run.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in (run.folder, run.folder / "checkpoints"):
        for path in folder.glob(".*.part"):
            path.unlink()


def _start_folder(run: PreparedRun) -> None:
    skipped = getattr(run.data, "skipped", ())
    for name in WRITTEN:
        if (run.folder / name).is_dir():  # found when the run ends otherwise
            raise RunFolderError(f"{run.folder / name} is a folder, expected a file: remove it")
    try:
        write_text(run.folder / "config.yaml", settings_text(run))
        if skipped:
            write_text(run.folder / "skipped.txt", encodable("\n".join(skipped)) + "\n")
    except OSError as error:
        raise RunFolderError(f"cannot write the run folder {run.folder} (--out): {error}") from error


def _train(run: PreparedRun) -> Result:
    trainer, learner = run.trainer, run.learner
    os.environ[FOLDER_VARIABLE] = str(run.folder)  # for the processes that Lightning starts
    try:
        with quiet_lightning(), quiet_tensorboard():
            trainer.loggers = [*trainer.loggers, *create_loggers(run.settings, run.folder)]
            run.loaders.loading.fill_cache()
            if run.settings.compile:
                compile_network(learner.network, run.settings.device)
            # Optimizer and mixer meet a malformed state only when they use it, in the first step.
            with restoring(run.resume, lambda: run.log.batches >= trainer.accumulate_grad_batches):
                trainer.fit(
                    learner,
                    datamodule=run.loaders,
                    ckpt_path=None if run.resume is None else str(run.resume),
                    weights_only=True,
                )
            rows = run.log.rows
            if not rows:
                raise MisconfigurationException(
                    "no epoch was finished: increase --epochs or --trainer.max-steps"
                )
            evaluated = [row for row in rows if learner.score in row]
            unmeasured = learner.score not in rows[-1]  # --evaluate-every skipped the last epoch
            if not run.log.batches:  # nothing but the record was left to do
                for callback in trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, WeightAveraging):
                        callback.on_train_end(trainer, learner)
            if unmeasured or not run.log.batches:
                loader = run.loaders.evaluation_dataloader()
                (metrics,) = trainer.validate(learner, loader, verbose=False)
            if unmeasured:
                rows[-1] |= {name: float(value) for name, value in metrics.items()}
                if trainer.is_global_zero:
                    run.log.write()
    finally:
        del os.environ[FOLDER_VARIABLE]
    # best.ckpt is only written in training, so not for the evaluation above.
    numbers = [row for row in evaluated if not math.isnan(row[learner.score])]
    best = max(numbers or evaluated or rows[-1:], key=lambda row: row[learner.score])
    limit = trainer.num_val_batches[0] * run.settings.batch_size * trainer.world_size
    return Result(
        folder=run.folder,
        rows=rows,
        score=learner.score,
        last=rows[-1][learner.score],
        best=best[learner.score],
        best_epoch=int(best["epoch"]),
        seconds=rows[-1]["seconds"],
        images_per_second=run.log.images / run.log.train_seconds,
        evaluated=int(min(limit, len(run.data.evaluation))),  # --trainer.limit-val-batches
    )
