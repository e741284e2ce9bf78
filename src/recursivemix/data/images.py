"""What every source of images gives: two splits of one set of classes, and how to prepare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from recursivemix.models.create import SMALL_IMAGE

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1]: the field's usual ones.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LabelledImages(Protocol):
    """Images one by one: a (3, H, W) uint8 tensor and a class index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...

    def name(self, index: int) -> str:
        """What to call an image in a message: its file, or its place in its source."""
        ...


class StackedImages:
    """Images of one size held in one tensor.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        source: what the images are of, for messages.
    """

    def __init__(self, images: Tensor, labels: Tensor, source: str) -> None:
        self.images = images
        self.labels = labels
        self.source = source

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        """The image's place in its source."""
        return f"{self.source}, image {index}"


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


class TransformedImages(Dataset[tuple[Tensor, int]]):
    """Images passed through a transform on access; picklable for loader workers."""

    def __init__(self, images: LabelledImages, transform: v2.Transform) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


def train_transform(data: ImageData) -> v2.Transform:
    """Random crop (padded for small images, resized for large ones), flip, normalise."""
    size = data.image_size
    steps: list[v2.Transform]
    if size <= SMALL_IMAGE:
        # Pad by an eighth of the side: 4 pixels for CIFAR, as in He et al. section 4.2.
        steps = [*_square(size), v2.RandomCrop(size, padding=size // 8)]
    else:
        steps = [v2.RandomResizedCrop(size, antialias=True)]
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, *_normalise(data)])


def evaluation_transform(data: ImageData) -> v2.Transform:
    """The middle of the image: all of a small one, 7/8 of a large one's short side."""
    size = data.image_size
    short = size if size <= SMALL_IMAGE else round(size * 8 / 7)
    return v2.Compose([v2.Resize(short, antialias=True), v2.CenterCrop(size), *_normalise(data)])


def denormalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, C, H, W) normalised floats back to [0, 1], for pictures."""
    channel_mean, channel_std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (images.cpu().float() * channel_std + channel_mean).clamp(0, 1)


def _square(size: int) -> list[v2.Transform]:
    return [v2.Resize(size, antialias=True), v2.CenterCrop(size)]


def _normalise(data: ImageData) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
