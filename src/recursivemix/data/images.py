"""What every source of images gives: two splits of one set of classes, and how to prepare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1]: the field's usual ones.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LabelledImages(Protocol):
    """Images one by one: a (3, H, W) uint8 tensor and a class index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def label(self, index: int) -> int:
        """An image's class index, without reading the image."""
        ...

    def name(self, index: int) -> str:
        """What to call an image in a message: its file, or its place in its source."""
        ...


class StackedImages:
    """Images of one size held in one tensor.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        source: what the images are of, for messages.
        names: tells an image's own name, where it has one.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, source: str, names: Callable[[int], str] | None = None
    ) -> None:
        self.images = images
        self.labels = labels
        self.source = source
        self._names = names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def label(self, index: int) -> int:
        """The class index of one image."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """The image's own name, or its place in its source."""
        return f"{self.source}, image {index}" if self._names is None else self._names(index)


@dataclass(frozen=True)
class Subset:
    """Some images of a set."""

    images: LabelledImages
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[self.indices[index]]

    def label(self, index: int) -> int:
        """The image's class in the set."""
        return self.images.label(self.indices[index])

    def name(self, index: int) -> str:
        """The image's name in the set."""
        return self.images.name(self.indices[index])


def fewer(images: LabelledImages, count: int, generator: torch.Generator) -> LabelledImages:
    """``count`` random images of a set, of every class its share; in the order of the set.

    Raises:
        ValueError: more images than there are, or fewer than classes.
    """
    labels = torch.tensor([images.label(i) for i in range(len(images))])
    classes = sorted(set(labels.tolist()))
    if not len(classes) <= count <= len(images):
        raise ValueError(
            f"--train-images must be at least one image of each of the {len(classes)} classes and no more "
            f"than the {len(images)} there are, got {count}"
        )
    # Each image's place in a shuffled list of its class, as a share: the first hold all classes evenly.
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in classes:
        own = (labels == label).nonzero()[:, 0]
        place[own] = torch.randperm(len(own), generator=generator).double() / len(own)
    # Equal places, such as each class's first, in random order.
    shuffled = torch.randperm(len(labels), generator=generator)
    chosen = shuffled[place[shuffled].argsort(stable=True)[:count]].sort().values
    if isinstance(images, StackedImages):
        names = [images.name(i) for i in chosen.tolist()]
        return StackedImages(images.images[chosen], images.labels[chosen], images.source, names.__getitem__)
    return Subset(images, chosen.tolist())


@dataclass(frozen=True)
class ImageData:
    """A classification data set, ready for loaders."""

    train: LabelledImages
    evaluation: LabelledImages
    classes: tuple[str, ...]
    image_size: int
    """Pixels a side that the network gets."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    """Whether a mirrored image keeps its class."""
    split: str
    """Which split ``evaluation`` is: "val", "test" or "held out"."""
    skipped: tuple[str, ...] = ()
    """Files left out, with the reason."""


def denormalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, C, H, W) normalised floats back to [0, 1], for pictures."""
    channel_mean, channel_std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (images.cpu().float() * channel_std + channel_mean).clamp(0, 1)
