"""The training batches that pictures show: images, order and augmentation of a run, before mixing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import TrainingBatches
from recursivemix.data.images import ImageData, StackedImages
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder
from recursivemix.data.settings import AugmentationSettings
from recursivemix.mixing import MIXERS
from recursivemix.models.create import create_model

from .photographs import PARTS, photographs


class Step(NamedTuple):
    """One batch before mixing."""

    images: Tensor
    """(B, 3, H, W), normalized."""
    labels: Tensor
    """(B,) class indices."""
    indices: Tensor
    """(B,) indices in the training set."""
    starts_epoch: bool


def open_images(
    data: Path | None, dataset: Source | None, val_split: float | None, image_size: int | None, seed: int
) -> ImageData:
    """Open images as for training; without ``data`` and ``dataset``, crops of two photographs.

    Raises:
        ValueError: data that cannot be opened, or options without data that they apply to.
    """
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
    epoch = 0
    settings = AugmentationSettings() if settings is None else settings
    if data.split == PARTS and settings.crop is None:
        settings = replace(settings, crop="none")  # the photographs are crops already
    augmentation = augmentation_of(data, settings)
    order = TrainingOrder(len(data.train), batch_size, seed)
    in_memory = isinstance(data.train, StackedImages) and not augmentation.one_by_one
    in_memory = in_memory and data.train.size(0) == (augmentation.size, augmentation.size)
    batches = TrainingBatches(
        data.train, order, augmentation, lambda: epoch, device=torch.device("cpu"), hold=in_memory
    )
    for epoch in itertools.count():  # noqa: B007 - read by the lambda above
        for step, batch in enumerate(batches):
            yield Step(batch.images, batch.targets, batch.indices, step == 0)
