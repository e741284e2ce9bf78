"""What a run says of itself while it goes: one row an epoch, in memory and as a CSV."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

COLUMNS = (
    "epoch",
    "lr",
    "loss_label",
    "loss_consistency",
    "acc_mixed",
    "acc_clean",
    "val_loss",
    "acc1",
    "seconds",
)
EVALUATED = ("acc_clean", "val_loss", "acc1")


class EpochRows(Callback):
    """Collects the metrics of each epoch, and keeps the CSV up to date.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        """``seconds`` is the time since the run began; accuracies are percent."""
        self.images = 0
        """Images trained on, by all processes."""
        self.evaluated = 0
        """Images that the last evaluation measured, on all processes."""
        self.train_seconds = 0.0
        """Time spent training, evaluation left out."""
        self._run_start = time.perf_counter()
        self._epoch_start = 0.0
        self._evaluation_start = 0.0
        self._evaluation_seconds: float | None = None
        self._lr = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._evaluation_seconds = None
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[0]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_start = time.perf_counter()
        self.evaluated = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0:
            self.evaluated += len(batch[0]) * trainer.world_size

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        spent = time.perf_counter() - self._evaluation_start
        self._evaluation_seconds = spent + (self._evaluation_seconds or 0.0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._epoch_start - (self._evaluation_seconds or 0.0)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._evaluation_seconds is None:  # Lightning still shows the last evaluation's values
            values = {name: value for name, value in values.items() if name not in EVALUATED}
        values["epoch"] = trainer.current_epoch + 1
        values["lr"] = self._lr
        values["seconds"] = round(now - self._run_start, 3)
        self.rows.append({name: values[name] for name in COLUMNS if name in values})
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write the CSV anew."""
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
