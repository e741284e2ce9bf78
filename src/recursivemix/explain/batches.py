"""The training batches that pictures show: images, order and augmentation of a run, before mixing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import Batch, TrainingBatches
from recursivemix.data.images import ImageData, StackedImages
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder
from recursivemix.data.settings import AugmentationSettings
from recursivemix.mixing import MIXERS
from recursivemix.models.create import create_model

from .photographs import PARTS, photographs

Step = tuple[bool, Batch]
"""Whether a batch is the first of its epoch, and the batch before mixing."""
T = TypeVar("T")


def open_images(
    data: Path | None, dataset: Source | None, val_split: float | None, image_size: int | None, seed: int
) -> ImageData:
    """Open images as for training; without ``data`` and ``dataset``, crops of two photographs."""
    if data is None and dataset is None:
        if val_split is not None or image_size is not None:
            raise ValueError("--val-split and --image-size need a folder of images: add --data DIR")
        return photographs()
    return open_data(data, dataset or "auto", val_split=val_split, image_size=image_size, seed=seed)


def network_for(mixer: str, model: str, num_classes: int, image_size: int, seed: int) -> nn.Module | None:
    """Create a network with random weights if the method works inside one."""
    if mixer not in MIXERS or not MIXERS[mixer].needs_model:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(model, num_classes, image_size).train()


def first_batches(
    data: ImageData, batch_size: int, seed: int, settings: AugmentationSettings | None = None
) -> Iterator[Step]:
    """Iterate over the training batches of a run, epoch after epoch."""
    settings = AugmentationSettings() if settings is None else settings
    if data.split == PARTS and settings.crop is None:
        settings = replace(settings, crop="none")  # the photographs are crops already
    augmentation = augmentation_of(data, settings)
    order = TrainingOrder(len(data.train), batch_size, seed)
    in_memory = isinstance(data.train, StackedImages) and not augmentation.one_by_one
    in_memory = in_memory and data.train.size(0) == (augmentation.size, augmentation.size)
    epoch = itertools.count().__next__
    return epoch_after_epoch(
        TrainingBatches(data.train, order, augmentation, epoch, device=torch.device("cpu"), hold=in_memory)
    )


def epoch_after_epoch(batches: Iterable[T]) -> Iterator[tuple[bool, T]]:
    """Iterate over batches without end; tell of each whether it is the first of an epoch."""
    while True:
        for step, batch in enumerate(batches):
            yield step == 0, batch
