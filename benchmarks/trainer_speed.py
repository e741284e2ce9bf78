"""Images per second of training through the real trainer, for the benchmarks that need it."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from recursivemix.data.images import ImageData
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.checkpoints import StoppedError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare

Window = tuple[int, int]
"""Timed from the end of the run's step ``first`` to the end of step ``last``, both counted from 1."""


class Speed(NamedTuple):
    """What a short run said."""

    images_per_second: list[float]
    """Of each window."""
    precision: str
    """Lightning's name for it."""
    data: ImageData
    """The images, held in memory where the trainer holds them; for the next run."""


class Windows(Callback):
    """Stops the clock at the edges of windows, and the run after the last one.

    Between two edges lies all that training costs: data, mixing, the step, and the trainer's own work.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        if any(not 1 <= first < last for first, last in windows):
            raise ValueError(f"a window begins after a step and ends after a later one, got {windows}")
        self.windows = windows
        self.edges = {step for window in windows for step in window}
        self.steps = 0
        self.images = 0
        self.stamps: dict[int, tuple[float, int]] = {}
        """Time, and images so far, at the end of a step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        self.images += len(batch[0])
        if self.steps not in self.edges:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.stamps[self.steps] = (perf_counter(), self.images)
        if self.steps == max(self.edges):
            raise StoppedError("measured")

    def speeds(self) -> list[float]:
        """Images per second of each window."""
        return [
            (self.stamps[last][1] - self.stamps[first][1]) / (self.stamps[last][0] - self.stamps[first][0])
            for first, last in self.windows
        ]


def trainer_speed(
    config: dict[str, Any], windows: Sequence[Window], held: ImageData | None = None
) -> Speed:
    """Train with the settings of `recursivemix fit` for as many steps as the windows need.

    Args:
        config: of `ClassificationSettings`, without ``out``.
        windows: of the run's steps; inside an epoch, or what an epoch's end costs is in them.
        held: the images of an earlier run with the same settings, which saves reading them again.
    """
    clock = Windows(windows)
    # The progress bar belongs to the defaults, and so to their time; its text does not belong here.
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        run = prepare(ClassificationSettings(**config, out=Path(folder) / "run"), [clock], {})
        if held is not None:
            run.loaders.loading.data = held
        try:
            fit(run)
        except StoppedError:
            if len(clock.stamps) < len(clock.edges):  # somebody else stopped it
                raise
        else:
            raise SystemExit(f"the run ended before step {max(clock.edges)}: more --images or epochs")
        speed = Speed(clock.speeds(), str(run.trainer.precision), run.loaders.loading.data)
    del run
    gc.collect()  # Lightning's objects know one another
    return speed
