"""Labelled images, and the data set of a run: two splits of one set of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from PIL import ImageFile
from torch import Tensor

from recursivemix.models.preprocessing import Interpolation, Preprocessing

from .crop import ChooseCrop
from .decode import FIX_FILE, Decoding, as_rgb, decode_crop, open_image

if TYPE_CHECKING:
    from .settings import ImageSettings

# Mean and standard deviation of ImageNet's training images, RGB in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class LabelledImages(Protocol):
    """Images that are read one by one, with their labels."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 class indices, or (N, K) uint8 multi-hot; available without reading an image."""
        ...

    @property
    def blocks(self) -> Tensor | None:
        """(N,) int64, the shard of each image, if images should be read from a few shards at a time."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Return an image, (3, H, W) uint8 RGB."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Return the (H, W) of an image without decoding its pixels."""
        ...

    def name(self, index: int) -> str:
        """Return the file of an image, or its position in the data set; for messages."""
        ...

    def select(self, indices: Tensor) -> Self:
        """Return the images at (M,) int64 indices, in this order."""
        ...


class StackedImages:
    """Images of one size, in one tensor.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64 class indices, or (N, K) uint8 multi-hot.
        source: name of the data set, for messages.
        names: returns the name of an image by its index (default: ``source`` and the index).
    """

    blocks: Tensor | None = None

    def __init__(
        self, images: Tensor, labels: Tensor, source: str, names: Callable[[int], str] | None = None
    ) -> None:
        self.images = images
        self.labels = labels
        self.source = source
        self._names = names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def size(self, index: int) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    def name(self, index: int) -> str:
        return f"{self.source}, image {index}" if self._names is None else self._names(index)

    def select(self, indices: Tensor) -> StackedImages:
        names = [self.name(index) for index in indices.tolist()]
        return StackedImages(self.images[indices], self.labels[indices], self.source, names.__getitem__)


class EncodedSource(Protocol):
    """Encoded images by row; picklable, for loader processes."""

    fix: str
    """What the user can do about an unreadable image, for error messages."""
    blocks: Tensor | None
    """(rows,) int64, the shard of each row, if reading from many shards at a time is slow; else None."""

    def __getitem__(self, row: int) -> Path | bytes | None:
        """Return the file or the encoded bytes of an image; None if none is stored."""
        ...

    def name(self, row: int) -> str:
        """Return the name of an image, for messages."""
        ...


class ImageFiles:
    """Image files as an `EncodedSource`."""

    fix = FIX_FILE
    blocks: Tensor | None = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __getitem__(self, row: int) -> Path:
        return self.paths[row]

    def name(self, row: int) -> str:
        return str(self.paths[row])


class EncodedImages:
    """Images that are decoded when they are read.

    Args:
        source: the encoded images.
        labels: (N,) int64 class indices, or (N, K) uint8 multi-hot.
        rows: (N,) int64, the row of each image in ``source`` (default: 0 to N - 1).
        decoding: how they are decoded.
    """

    def __init__(
        self,
        source: EncodedSource,
        labels: Tensor,
        rows: Tensor | None = None,
        decoding: Decoding = Decoding(),  # noqa: B008 (a tuple)
    ) -> None:
        self.source = source
        self.labels = labels
        self.rows = torch.arange(len(labels)) if rows is None else rows
        self.decoding = decoding

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        with self.open(index) as image:
            return as_rgb(image)

    def crop(self, index: int, choose: ChooseCrop) -> Tensor:
        """Decode the region of an image that the network receives; see `decode_crop`."""
        row = int(self.rows[index])
        source = self.source
        return decode_crop(source[row], source.name(row), source.fix, choose, self.decoding)

    def open(self, index: int) -> AbstractContextManager[ImageFile.ImageFile]:
        """Open an image; its pixels are not decoded yet.

        Raises:
            UnreadableImageError: the image cannot be decoded; raised inside the context too.
        """
        row = int(self.rows[index])
        return open_image(
            self.source[row], self.source.name(row), self.source.fix, self.decoding.max_pixels
        )

    @property
    def blocks(self) -> Tensor | None:
        return None if self.source.blocks is None else self.source.blocks[self.rows]

    def prefetch(self, indices: Tensor) -> None:
        """Start to fetch the shards of these images in the background, if there are any."""
        if self.source.blocks is not None:
            prefetch: Callable[[Tensor], None] = getattr(self.source, "prefetch")  # noqa: B009
            prefetch(self.rows[indices])

    def size(self, index: int) -> tuple[int, int]:
        """Return the (H, W) of an image from its header."""
        with self.open(index) as image:
            return image.height, image.width

    def name(self, index: int) -> str:
        return self.source.name(int(self.rows[index]))

    def decoded(self, decoding: Decoding) -> EncodedImages:
        """Return the same images, decoded in another way."""
        return EncodedImages(self.source, self.labels, self.rows, decoding)

    def select(self, indices: Tensor) -> EncodedImages:
        return EncodedImages(self.source, self.labels[indices], self.rows[indices], self.decoding)


def cropped(images: LabelledImages, index: int, choose: ChooseCrop) -> Tensor:
    """Return the region of an image that the network receives, resized: (3, size, size) uint8."""
    if isinstance(images, EncodedImages):
        return images.crop(index, choose)
    image = images[index]
    return choose((image.shape[-2], image.shape[-1])).apply(image)


def spread_indices(images: LabelledImages, count: int) -> Tensor:
    """Return about ``count`` indices, spread evenly over the images, or over the first of their shards."""
    indices = torch.arange(len(images))
    if images.blocks is not None:
        indices = (images.blocks == images.blocks.min()).nonzero()[:, 0]
    return indices[:: max(1, len(indices) // count)]


@dataclass(frozen=True)
class ImageData:
    """A classification data set, ready for loaders."""

    train: LabelledImages
    evaluation: LabelledImages
    classes: tuple[str, ...]
    image_size: int
    """Side of the network's input in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    """Whether a mirrored image keeps its class."""
    split: str
    """Name of the evaluation split: "val", "test" or "held out"."""
    resize: int | None = None
    """Pixels of the shorter side before the center crop of evaluation; None: see `evaluation_resize`."""
    interpolation: Interpolation = "bilinear"
    """Filter of every resize; antialiased."""
    skipped: tuple[str, ...] = ()
    """Images left out by ``--skip-bad``, each with the reason."""

    def prepared(self, preprocessing: Preprocessing) -> ImageData:
        """Return the data with the preprocessing of a trained network."""
        return replace(
            self,
            image_size=preprocessing.size,
            mean=preprocessing.mean,
            std=preprocessing.std,
            resize=preprocessing.resize,
            interpolation=preprocessing.interpolation,
        )

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels, as a multi-hot row, instead of one class index."""
        return self.train.labels.ndim == 2


@dataclass(frozen=True)
class ImageFormat:
    """A format of labelled images; `recursivemix.data.names.IMAGE_FORMATS` lists them."""

    open: Callable[[ImageSettings, int], ImageData]
    """Open the data set of these settings; the second argument is the seed of random splits."""
    detect: Callable[[ImageSettings], bool]
    """Tell whether ``--data`` is in this format; called only for ``--dataset auto``."""
    options: frozenset[str] = frozenset()
    """Fields of `ImageSettings` that apply to this format, besides those that apply to all."""
    needs: str | None = "data"
    """The field of `ImageSettings` that names the data set; None if there is only one of this format."""


def denormalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Undo the normalization of (B, C, H, W) images; the result is in [0, 1], for pictures."""
    channel_mean, channel_std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    return (images.cpu().float() * channel_std + channel_mean).clamp(0, 1)
