"""How long a grid will take, measured on a few real steps of every method."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from recursivemix.tasks.classification import PROBE
from recursivemix.training.fit import fit
from recursivemix.training.prepare import PreparedRun, prepare

from .grid import CompareConfig, budget_seconds

STEPS = 12
"""Measured steps of each method, after the first ones, in which memory is found and kernels are chosen."""
WARM_UP = 3
START_SECONDS = 12.0
"""What a run needs beside its steps: two processes that import torch, a network that is made and saved."""
EVALUATION_PASSES = 22
"""Corruptions, occlusion, scale and pictures of four, in passes over ``images`` test images; the maps of
the localisation, with their gradients, are counted as ten of them."""


class Clock(Callback):
    """When each training step and each evaluated batch ended."""

    def __init__(self) -> None:
        self.training: list[float] = []
        self.evaluation: list[float] = []

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
    """What was measured of one method, in seconds."""

    label: str
    epoch: float
    """One pass over the training images and its evaluation."""
    once: float
    """Start, reading of the data, and the evaluation of the checkpoint."""

    def run(self, epochs: int) -> float:
        """Seconds of a whole run."""
        return self.once + epochs * self.epoch


def measure(config: CompareConfig) -> list[Pace]:
    """Train each method for a few steps, as its runs will, in a folder that is removed again."""
    threads = torch.get_num_threads()
    if config.executor == "local" and config.jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.jobs))
    try:
        return [_pace(config, label) for label in config.labels]
    finally:
        torch.set_num_threads(threads)


def grid_seconds(config: CompareConfig, paces: list[Pace], epochs: int) -> float:
    """Seconds of the whole grid; several jobs at a time are counted as if they shared their work evenly."""
    total = config.seeds * sum(pace.run(epochs) for pace in paces)
    return total / config.jobs if config.executor == "local" else total


def epochs_in_budget(config: CompareConfig, paces: list[Pace]) -> int:
    """The most epochs that fit into the budget.

    Raises:
        ValueError: not even one does.
    """
    assert config.budget is not None
    budget = budget_seconds(config.budget)
    fixed, one = grid_seconds(config, paces, 0), grid_seconds(config, paces, 1)
    epochs = int((budget - fixed) / (one - fixed))
    if epochs < 1:
        raise ValueError(
            f"--budget {config.budget} is too short: {len(paces)} methods with {config.seeds} seeds need "
            f"about {one:.0f} s for a single epoch; take fewer methods, seeds or --settings.train-images"
        )
    return epochs


def _pace(config: CompareConfig, label: str) -> Pace:
    clock = Clock()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="recursivemix-") as folder:
        run_config = config.run_config(label, 0, epochs=1, out=Path(folder, "run"))
        options = {
            "limit_train_batches": STEPS + WARM_UP,
            "limit_val_batches": STEPS,
            "enable_progress_bar": False,
        }
        run = prepare(run_config, [clock], options)
        fit(run)
    step, batch = _median_gap(clock.training[WARM_UP:]), _median_gap(clock.evaluation)
    steps = run.learner.order().steps
    # Reading the data was part of what was measured here, and belongs to every run.
    elapsed = time.perf_counter() - start
    reading = max(0.0, elapsed - len(clock.training) * step - len(clock.evaluation) * batch)
    return Pace(
        label,
        steps * step + _evaluation_batches(run) * batch,
        START_SECONDS + reading + _worth(run, config, batch),
    )


def _evaluation_batches(run: PreparedRun) -> int:
    """Batches of an epoch's evaluation: the split and the probe of training images."""
    size = run.settings.batch_size
    return -(-len(run.data.evaluation) // size) + -(-PROBE // size)


def _worth(run: PreparedRun, config: CompareConfig, batch: float) -> float:
    """Seconds of `evaluate_checkpoint`."""
    images = min(config.images, len(run.data.evaluation))
    passes = EVALUATION_PASSES * 2.5 * images + len(run.data.evaluation)
    return passes / run.settings.batch_size * batch


def _median_gap(times: list[float]) -> float:
    gaps = [after - before for before, after in pairwise(times)]
    return median(gaps) if gaps else 0.0
