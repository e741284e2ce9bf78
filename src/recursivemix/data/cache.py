"""Keep data sets that fit in memory as decoded bytes in one tensor."""

from __future__ import annotations

import torch
from rich.progress import Progress, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recursivemix.models.preprocessing import Interpolation

from .augment import Augmentation
from .crop import ChooseCrop, evaluation_crop
from .images import LabelledImages, StackedImages, cropped
from .keyed_loader import start_worker

CACHE_LIMIT = 2 * 2**30
"""Largest cache in bytes per process for ``--cache auto``. It does not depend on the free memory: a run
with a cache draws other random numbers than one without, and must be the same on every machine."""


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
    """Decode every image once and crop it to (3, size, size).

    Args:
        images: the data set.
        size: side of the crops in pixels.
        workers: processes that decode; 0 decodes in this process.
        progress: show a progress bar.
        what: name of the images in the progress bar.
        resize: shorter side before the crop; None: see `evaluation_resize`.
        interpolation: of the resize.
    """
    crops = resize is not None and resize != size
    if isinstance(images, StackedImages) and images.images.shape[-2:] == (size, size) and not crops:
        return images
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    # A separate generator: the global one belongs to the network.
    crop = CenterCrops(images, evaluation_crop(size, resize, interpolation))
    loader = DataLoader(
        crop,
        batch_size=256,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not progress) as bar:
        task = bar.add_task(f"reading {what}", total=len(images))
        start = 0
        for batch in loader:
            pixels[start : start + len(batch)] = batch
            start += len(batch)
            bar.update(task, completed=start)
    return StackedImages(pixels, images.labels, what, images.name)


def cache_bytes(counts: list[int], size: int) -> int:
    """Return the bytes that sets with these numbers of images take, decoded and packed with a border."""
    border = size // 8
    return sum(counts) * (3 * size**2 + 4 * (size + 2 * border) ** 2)


def can_be_cached(augmentation: Augmentation) -> bool:
    """Tell whether a whole batch can be augmented at once: shifts, mirroring and lighting only."""
    return not augmentation.one_by_one
