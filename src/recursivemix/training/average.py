"""The average of the weights at the ends of the last epochs."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class LastEpochsAverage(WeightAveraging):
    """Averages weights and batch normalization statistics at the ends of the last epochs, equally weighted.

    From the first of these epochs on, evaluations measure the average so far, and checkpoints hold it
    beside the weights that training goes on with.

    Args:
        epochs: number of epochs to average.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    @property
    def has_begun(self) -> bool:
        """Whether the average holds the weights of an epoch."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights of an epoch after its last step, before its evaluation."""
        total = trainer.max_epochs or 0
        if trainer.is_last_batch and trainer.current_epoch >= total - self.epochs:
            assert self._average_model is not None
            self._average_model.update_parameters(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing: the epoch was added before its evaluation."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.has_begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
