"""The loaders of a run: training batches, evaluation batches, and a probe of unmixed training images."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule

from recursivemix.data.order import TrainingOrder, evaluation_batches

from .settings import RunSettings
from .task import Batches, Images, Loading, TrainingBatches


class RunLoaders(LightningDataModule):
    """Loaders of a run, for one process. A checkpoint holds the step at which an epoch goes on.

    Args:
        loading: makes the batches of the task.
        settings: batch size, seed and repeats.
    """

    def __init__(self, loading: Loading, settings: RunSettings) -> None:
        super().__init__()
        self.loading = loading
        self.settings = settings
        self._first_step = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> RunLoaders:
        """Return itself: averaged weights copy the learner, which has `order`, but not the images."""
        return self

    def order(self, rank: int | None = None) -> TrainingOrder:
        """Return which training images make up which batch of this process, or of another."""
        trainer, images = self._trainer, self.loading.data.train
        return TrainingOrder(
            len(images),
            self.settings.batch_size,
            self.settings.seed,
            self.settings.repeats,
            trainer.world_size,
            trainer.global_rank if rank is None else rank,
            getattr(images, "blocks", None),
            getattr(self.loading, "strata", None),
        )

    def train_dataloader(self) -> TrainingBatches:
        trainer = self._trainer
        batches = self.loading.training(
            self.order(), lambda: trainer.current_epoch, trainer.strategy.root_device
        )
        batches.first, self._first_step = self._first_step, 0
        return batches

    def val_dataloader(self) -> list[Batches]:
        """Return the evaluation batches, then those of the probe if there is one."""
        probe = self.loading.probe()
        return [self.evaluation_dataloader(), *([] if probe is None else [self._evaluation(probe)])]

    def evaluation_dataloader(self) -> Batches:
        """Return the batches that the score is measured on."""
        return self._evaluation(self.loading.data.evaluation)

    def _evaluation(self, images: Images) -> Batches:
        trainer, size = self._trainer, self.settings.batch_size
        share = evaluation_batches(len(images), size, trainer.world_size, trainer.global_rank)
        return self.loading.evaluation(images, share, trainer.strategy.root_device)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch as it is: images and targets are on the device, indices stay on the CPU."""
        return batch

    @property
    def _trainer(self) -> Any:
        assert self.trainer is not None
        return self.trainer

    def state_dict(self) -> dict[str, Any]:
        loop = self._trainer.fit_loop
        epochs, steps = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        return {"next_step": 0 if epochs.processed == epochs.ready else steps.processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._first_step = state_dict["next_step"]
