"""Batches from images: shuffled and augmented for training, plain for evaluation and the probe."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from recursivemix.data.images import ImageData, TransformedImages, evaluation_transform, train_transform

Loader = DataLoader[tuple[Tensor, Tensor]]


class Loaders(LightningDataModule):
    """Loaders of one `ImageData`.

    Args:
        data: the images.
        batch_size: images a step, on each device.
        workers: processes that read images; 0 reads in the training process.
        probe: how many training images, spread over the set, measure the accuracy on unmixed images.
        seed: of the order of the training images.
    """

    def __init__(
        self, data: ImageData, *, batch_size: int, workers: int = 0, probe: int = 512, seed: int = 0
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.workers = workers
        self.probe = probe
        self.generator = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> Loader:
        images = TransformedImages(self.data.train, train_transform(self.data))
        return self._loader(images, shuffle=True, generator=self.generator)

    def val_dataloader(self) -> list[Loader]:
        """The evaluation split, then the probe."""
        plain = TransformedImages(self.data.train, evaluation_transform(self.data))
        step = max(1, len(plain) // self.probe)
        return [self.evaluation_dataloader(), self._loader(Subset(plain, range(0, len(plain), step)))]

    def evaluation_dataloader(self) -> Loader:
        return self._loader(TransformedImages(self.data.evaluation, evaluation_transform(self.data)))

    def _loader(self, images: Any, **options: Any) -> Loader:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            **options,
        )
