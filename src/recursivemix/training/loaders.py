"""The loaders of a run: training batches, the evaluation split, and a probe of unmixed training images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning import LightningDataModule

from recursivemix.data.augment import Augmentation
from recursivemix.data.batches import EvaluationBatches, TrainingBatches
from recursivemix.data.cache import CACHE_LIMIT, cache_bytes, can_be_cached, stack
from recursivemix.data.images import ImageData, LabelledImages
from recursivemix.data.names import Cache
from recursivemix.data.order import TrainingOrder, evaluation_batches
from recursivemix.models import SMALL_IMAGE


class RunLoaders(LightningDataModule):
    """Base of the loaders of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        """The step of its epoch that training begins with."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Keep the batch as it is: loaders put images and targets on the device, and indices on the CPU."""
        return batch

    def fill_cache(self) -> None:
        """Read what is to be held in memory; before any step, so that a bad file is found first."""

    def evaluation_dataloader(self) -> Any:
        """The batches that the score is measured on."""
        raise NotImplementedError


class Loaders(RunLoaders):
    """Loaders of one `ImageData`.

    Args:
        data: the images.
        augmentation: how training images are varied.
        batch_size: images a step, on each device.
        workers: processes that read images; 0 reads in the training process.
        cache: hold all images in memory, decoded: "yes", "no", or "auto" for small images that fit.
        repeats: copies of an image in a batch, each varied by itself (repeated augmentation).
        probe: how many training images, spread over the set, measure the accuracy on unmixed images.
        seed: of order and augmentation.
        progress: show how far the reading into memory is.
    """

    def __init__(
        self,
        data: ImageData,
        augmentation: Augmentation,
        *,
        batch_size: int,
        workers: int = 0,
        cache: Cache = "auto",
        repeats: int = 1,
        probe: int = 512,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.workers = workers
        self.repeats = repeats
        self.probe = probe
        self.seed = seed
        self.progress = progress
        self.data = data
        self.hold = self._decide(cache)
        self.training: TrainingBatches | None = None

    def fill_cache(self) -> None:
        if not self.hold:
            return
        size, workers = self.augmentation.size, self.workers
        sets = {"training images": self.data.train, f"{self.data.split} images": self.data.evaluation}
        train, evaluation = (
            stack(images, size, workers, self.progress, what) for what, images in sets.items()
        )
        self.data = replace(self.data, train=train, evaluation=evaluation)

    def train_dataloader(self) -> TrainingBatches:
        trainer = self.trainer
        assert trainer is not None
        order = TrainingOrder(
            len(self.data.train),
            self.batch_size,
            self.seed,
            self.repeats,
            ranks=trainer.world_size,
            rank=trainer.global_rank,
        )
        self.training = TrainingBatches(
            self.data.train,
            order,
            self.augmentation,
            lambda: trainer.current_epoch,
            device=trainer.strategy.root_device,
            hold=self.hold,
            workers=self.workers,
        )
        self.training.first, self.first = self.first, 0
        return self.training

    def val_dataloader(self) -> list[EvaluationBatches]:
        """The evaluation split, then the probe."""
        train = self.data.train
        probe = train.select(torch.arange(0, len(train), max(1, len(train) // self.probe)))
        return [self.evaluation_dataloader(), self._evaluation(probe)]

    def evaluation_dataloader(self) -> EvaluationBatches:
        return self._evaluation(self.data.evaluation)

    def _evaluation(self, images: LabelledImages) -> EvaluationBatches:
        trainer = self.trainer
        assert trainer is not None
        batches = evaluation_batches(len(images), self.batch_size, trainer.world_size, trainer.global_rank)
        return EvaluationBatches(
            images,
            batches,
            self.augmentation,
            device=trainer.strategy.root_device,
            hold=self.hold,
            workers=self.workers,
        )

    def _decide(self, cache: Cache) -> bool:
        size = self.augmentation.size
        if cache == "yes" and not can_be_cached(self.augmentation):
            raise ValueError(
                "--cache yes is for images that are moved and mirrored; with --crop resized or "
                "--color-jitter they are read anew in each epoch: leave --cache out"
            )
        if cache != "auto":
            return cache == "yes"
        needed = cache_bytes([len(self.data.train), len(self.data.evaluation)], size)
        return can_be_cached(self.augmentation) and size <= SMALL_IMAGE and needed <= CACHE_LIMIT
