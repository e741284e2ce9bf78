"""What a run says of itself while it goes: one row an epoch, in memory and as a CSV."""

from __future__ import annotations

import csv
import time
from pathlib import Path

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
    """Collects the metrics of each epoch; adds a line to the CSV as the epoch ends.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        """``seconds`` is the time since the run began; accuracies are percent."""
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

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_seconds = time.perf_counter() - self._evaluation_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._epoch_start - (self._evaluation_seconds or 0.0)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._evaluation_seconds is None:  # Lightning still shows the last evaluation's values
            values = {name: value for name, value in values.items() if name not in EVALUATED}
        values["epoch"] = trainer.current_epoch + 1
        values["lr"] = self._lr
        values["seconds"] = round(now - self._run_start, 3)
        row = {name: values[name] for name in COLUMNS if name in values}
        self.rows.append(row)
        if trainer.is_global_zero:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if len(self.rows) == 1:
                    writer.writeheader()
                writer.writerow(row)
