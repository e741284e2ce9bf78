"""Estimate how long a comparison takes from a few measured steps of every method."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
from recursivemix.training.settings import RunSettings

from .settings import CompareSettings, budget_seconds

STEPS = 12
"""Measured steps of each method, after `WARM_UP` steps in which memory is allocated."""
WARM_UP = 3
START_SECONDS = 12.0
"""Time of a run besides its steps: processes that import torch, a network that is created and saved."""
PROBE_PASSES = 65
"""Cost of the probes of a checkpoint, in evaluation passes over ``images`` test images."""


class Clock(Callback):
    """Record when each training step and each evaluated batch ends, and how many an epoch has."""

    def __init__(self) -> None:
        self.training: list[float] = []
        self.evaluation: list[float] = []
        self.training_batches = 0
        self.evaluation_batches = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training_batches = len(trainer.train_dataloader)  # type: ignore[arg-type]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loaders: Any = trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, Sequence) else [loaders]
        self.evaluation_batches = sum(map(len, loaders)) / (trainer.check_val_every_n_epoch or 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.training.append(time.perf_counter())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.evaluation.append(time.perf_counter())


@dataclass(frozen=True)
class Pace:
    """Measured times of one method in seconds."""

    label: str
    epoch: float
    """One pass over the training images, with its evaluation."""
    once: float
    """Start, reading the data, evaluating the checkpoint, and training a backbone for it."""
    images_per_class: float | None = field(default=None, kw_only=True)
    """Mean number of training images of a class."""

    def run(self, epochs: int) -> float:
        """Return the time of a whole run."""
        return self.once + epochs * self.epoch


def measure(settings: CompareSettings) -> list[Pace]:
    """Train each method for a few steps in a temporary folder."""
    with threads_of(settings):
        return [_measure_method(settings, label) for label in settings.labels]


@contextmanager
def threads_of(settings: CompareSettings) -> Iterator[None]:
    """Use as many threads as one of several runs at the same time."""
    threads = torch.get_num_threads()
    if settings.executor == "local" and settings.jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.jobs))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def total_seconds(settings: CompareSettings, paces: list[Pace], epochs: int) -> float:
    """Return the time of all runs; jobs at the same time are assumed to share the work evenly."""
    total = settings.seeds * sum(pace.run(epochs) for pace in paces)
    return total / settings.jobs if settings.executor == "local" else total


def epochs_in_budget(settings: CompareSettings, paces: list[Pace]) -> int:
    """Return the most epochs that fit into the budget.

    Raises:
        ValueError: not even one epoch fits.
    """
    assert settings.budget is not None
    budget = budget_seconds(settings.budget)
    fixed, one = total_seconds(settings, paces, 0), total_seconds(settings, paces, 1)
    epochs = int((budget - fixed) / (one - fixed))
    if epochs < 1:
        raise ValueError(
            f"--budget {settings.budget} is too short: {len(paces)} methods with {settings.seeds} seeds "
            f"need about {one:.0f} s for one epoch; use fewer methods, seeds or --settings.train-images"
        )
    return epochs


def _measure_method(settings: CompareSettings, label: str) -> Pace:
    seed = settings.first_seed
    run = settings.standalone_run(label, seed)
    pace = measure_run(run, label, settings.settings.get("trainer", {}))
    if not settings.is_dense:
        images = PROBE_PASSES * min(settings.images, pace.images) + pace.images
        return replace(pace, once=pace.once + images / pace.batch_size * pace.batch)
    if not settings.pretrains:
        return pace
    backbone = settings.method(label)["backbone"]
    if backbone != label:  # another method counts its backbone
        return pace
    before = settings.pretrain_run(backbone, seed)
    return Pace(label, pace.epoch, pace.once + measure_run(before, label, {}).run(before.epochs))


@dataclass(frozen=True)
class Measured(Pace):
    """Measured times of one run, without probes."""

    images: int
    """Images of the evaluation split."""
    batch: float
    """Seconds per evaluated batch."""
    batch_size: int


def measure_run(settings: RunSettings, label: str, trainer: dict[str, Any]) -> Measured:
    """Train one run for a few steps in a temporary folder."""
    clock = Clock()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="recursivemix-") as folder:
        options = trainer | {
            "max_epochs": 1,
            "limit_train_batches": STEPS + WARM_UP,
            "limit_val_batches": STEPS,
            "enable_progress_bar": False,
        }
        run = prepare(replace(settings, out=Path(folder, "run")), [clock], options)
        fit(run)
    step, batch = _median_gap(clock.training[WARM_UP:]), _median_gap(clock.evaluation)
    elapsed = time.perf_counter() - start
    reading = max(0.0, elapsed - len(clock.training) * step - len(clock.evaluation) * batch)
    return Measured(
        label,
        clock.training_batches * step + clock.evaluation_batches * batch,
        START_SECONDS + reading,
        len(run.data.evaluation),
        batch,
        settings.batch_size,
        images_per_class=len(run.data.train) / len(run.data.classes),
    )


def _median_gap(times: list[float]) -> float:
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else 0.0
