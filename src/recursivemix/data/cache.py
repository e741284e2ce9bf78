"""Keep data sets that fit in memory as decoded bytes in one tensor."""

from __future__ import annotations

import torch
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from recursivemix.models.preprocessing import Interpolation

from .crop import ChooseCrop, evaluation_crop
from .images import LabelledImages, StackedImages, cropped
from .keyed_loader import shared_bytes, start_worker

CACHE_LIMIT = 2 * 2**30
"""Largest cache in bytes per process for ``--cache auto``. It does not depend on the free memory: a run
with a cache draws other random numbers than one without, and must be the same on every machine."""
BATCH = 256
"""Images that a process decodes at a time."""


class CenterCrops(Dataset[int]):
    """Writes the central square of each image into memory that all processes share; for loader workers."""

    def __init__(self, images: LabelledImages, choose: ChooseCrop, size: int) -> None:
        self.images = images
        self.choose = choose
        self.pixels = shared_bytes(len(images), 3, size, size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[int]:
        """Write the squares of these images."""
        for index in indices:
            self.pixels[index].copy_(cropped(self.images, index, self.choose))
        return indices


def stack(
    images: LabelledImages,
    size: int,
    workers: int,
    progress: bool,
    what: str,
    resize: int | None = None,
    interpolation: Interpolation = "bilinear",
) -> StackedImages:
    """Decode every image once and take its `evaluation_crop`, (3, size, size).

    ``workers`` processes decode; 0 decodes in this process. ``what`` names the images in the progress bar.
    """
    whole = resize is None or resize == size
    if isinstance(images, StackedImages) and images.images.shape[-2:] == (size, size) and whole:
        return images
    crops = CenterCrops(images, evaluation_crop(size, resize, interpolation), size)
    loader = DataLoader(
        crops,
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=len,
        generator=torch.Generator(),  # a separate one: the global one belongs to the network
        worker_init_fn=start_worker,
    )
    started = iter(loader)  # its processes are forked before the bar starts a thread
    for _ in track(started, f"reading {what}", len(loader), transient=True, disable=not progress):
        pass
    return StackedImages(crops.pixels, images.labels, what, images.name)


def cache_bytes(counts: list[int], size: int) -> int:
    """Return the bytes that sets with these numbers of images take, decoded and packed with a border."""
    border = size // 8
    return sum(counts) * (3 * size**2 + 4 * (size + 2 * border) ** 2)
