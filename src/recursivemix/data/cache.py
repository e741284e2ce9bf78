"""Image sets that fit in memory: decoded once, then held as bytes in one tensor."""

from __future__ import annotations

import torch
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import Augmentation, evaluation_transform
from .images import LabelledImages, StackedImages

CACHE_LIMIT = 2 * 2**30
"""Bytes that a cache may take without being asked for, in each process. Not a share of what is free: a run
draws differently with and without a cache, and must not depend on what else the machine does."""


class SquareImages(Dataset[tuple[Tensor, int]]):
    """The middle of each image, (3, size, size) uint8; for loader processes."""

    def __init__(self, images: LabelledImages, size: int) -> None:
        self.images = images
        self.transform = evaluation_transform(size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


def stack(images: LabelledImages, size: int, workers: int, progress: bool, what: str) -> StackedImages:
    """Decode every image once; small ones, cut to (3, size, size).

    Args:
        workers: processes that decode; 0 decodes here.
        progress: show how far it is.
        what: of the images, for the progress bar.
    """
    if isinstance(images, StackedImages) and images.images.shape[-2:] == (size, size):
        return images
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    labels = torch.empty(len(images), dtype=torch.long)
    # Its own generator: torch's global stream belongs to the network.
    loader = DataLoader(
        SquareImages(images, size), batch_size=256, num_workers=workers, generator=torch.Generator()
    )
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not progress) as bar:
        task = bar.add_task(f"reading {what}", total=len(images))
        start = 0
        for batch, own in loader:
            pixels[start : start + len(own)], labels[start : start + len(own)] = batch, own
            start += len(own)
            bar.update(task, completed=start)
    return StackedImages(pixels, labels, what, images.name)


def cache_bytes(counts: list[int], size: int) -> int:
    """What the caches of sets with these many images take: bytes as read, and packed with their border."""
    border = size // 8
    return sum(counts) * (3 * size**2 + 4 * (size + 2 * border) ** 2)


def can_be_cached(augmentation: Augmentation) -> bool:
    """Whether a batch can be varied as a whole: moved, mirrored and lit, but no more."""
    return augmentation.crop != "resized" and not augmentation.color_jitter
