"""Metrics of each epoch, in memory and as a CSV file."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from recursivemix.data.atomic_write import write_text

from .learner import Learner


class EpochLog(Callback):
    """Collects the metrics of each epoch and keeps the CSV file up to date; part of every checkpoint.

    Args:
        path: of the CSV file.
        learner: defines the columns.
    """

    def __init__(self, path: Path, learner: Learner) -> None:
        self.path = path
        self.columns = ("epoch", "lr", *learner.means, *learner.evaluated, "seconds")
        self.rows: list[dict[str, float]] = []
        """``seconds`` is the time since the start of the run without interruptions; scores are percent."""
        self.images = 0
        """Number of training images processed, by all processes."""
        self.batches = 0
        """Number of training batches completed since this process started."""
        self.train_seconds = 0.0
        """Time spent in training, without evaluation."""
        self.resumed_at: list[int] = []
        """Optimizer steps at which the run was resumed."""
        self._earlier = 0.0
        self._start = time.perf_counter()
        self._since: float | None = None
        self._evaluated = False
        self._lr = 0.0

    @property
    def seconds(self) -> float:
        """Time since the start of the run, without interruptions."""
        return self._earlier + time.perf_counter() - self._start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        if trainer.global_step > 0:
            self.resumed_at.append(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated = False
        assert isinstance(pl_module, Learner)
        peak = trainer.optimizers[0].defaults["lr"]  # groups may have other rates, in the same proportion
        self._lr = float(peak) * pl_module.lr_factor(pl_module.optimizer_step_of(trainer.current_epoch, 0))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch.images) * trainer.world_size
        self.batches += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._evaluated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        means = pl_module.epoch_means()
        pl_module.log_dict(means)
        self._pause()
        self._since = time.perf_counter()
        values = {"epoch": trainer.current_epoch + 1, "lr": self._lr} | means
        if self._evaluated:  # otherwise Lightning still holds the values of the last evaluation
            logged = trainer.callback_metrics
            values |= {name: float(logged[name]) for name in pl_module.evaluated if name in logged}
        values["seconds"] = round(self.seconds, 3)
        self.rows.append({name: values[name] for name in self.columns if name in values})
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write the CSV file."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        self._pause()
        self._since = time.perf_counter()
        return {
            "rows": [dict(row) for row in self.rows],
            "images": self.images,
            "train_seconds": self.train_seconds,
            "seconds": self.seconds,
            "resumed_at": list(self.resumed_at),
            "lr": self._lr,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]
        self.images = state_dict["images"]
        self.train_seconds = state_dict["train_seconds"]
        self.resumed_at = list(state_dict["resumed_at"])
        self._earlier = state_dict["seconds"]
        self._start = time.perf_counter()
        self._lr = state_dict["lr"]

    def _pause(self) -> None:
        if self._since is not None:
            self.train_seconds += time.perf_counter() - self._since
            self._since = None
