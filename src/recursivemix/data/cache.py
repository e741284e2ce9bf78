"""Keep data sets that fit in memory as decoded bytes in one tensor."""

from __future__ import annotations

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recursivemix.models.preprocessing import Interpolation

from .crop import ChooseCrop, evaluation_crop
from .images import LabelledImages, StackedImages, cropped
from .keyed_loader import start_worker

CACHE_LIMIT = 2 * 2**30
"""Largest cache in bytes per process for ``--cache auto``. It does not depend on the free memory: a run
with a cache draws other random numbers than one without, and must be the same on every machine."""
BATCH = 256
"""Images that a process decodes at a time."""


class CenterCrops(Dataset[Tensor]):
    """The central square of each image, (3, size, size) uint8; for loader workers."""

    def __init__(self, images: LabelledImages, choose: ChooseCrop) -> None:
        self.images = images
        self.choose = choose

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return cropped(self.images, index, self.choose)


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
    crops = resize is not None and resize != size
    if isinstance(images, StackedImages) and images.images.shape[-2:] == (size, size) and not crops:
        return images
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    # A separate generator: the global one belongs to the network.
    crop = CenterCrops(images, evaluation_crop(size, resize, interpolation))
    loader = DataLoader(
        crop,
        batch_size=BATCH,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )
    started = iter(loader)  # its processes are forked before the bar starts a thread
    batches = track(started, f"reading {what}", len(loader), transient=True, disable=not progress)
    for start, batch in zip(range(0, len(images), BATCH), batches, strict=True):
        pixels[start : start + len(batch)] = batch
    return StackedImages(pixels, images.labels, what, images.name)


def cache_bytes(counts: list[int], size: int) -> int:
    """Return the bytes that sets with these numbers of images take, decoded and packed with a border."""
    border = size // 8
    return sum(counts) * (3 * size**2 + 4 * (size + 2 * border) ** 2)
