"""Training and evaluation batches of annotated images: read, varied, stacked where they are of one size.

As with plain images, a batch is a pure function of (seed, epoch, step, rank): see `order`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import ColorJitter

from .annotated import IGNORE, DetectionImages, Objects, SegmentationImages
from .batches import KeySampler
from .order import TrainingOrder, seed_of

Target = TypeVar("Target", Objects, Tensor)
Sample = tuple[int, Tensor, Any]
"""The place of an image in its set, (3, H, W) uint8, and its target."""
MOST_OF_ONE_CLASS = 0.75
"""Of a crop's labelled pixels; other crops are tried, as in the paper's recipe (mmsegmentation)."""
CROP_TRIES = 10


class AnnotatedBatch(NamedTuple, Generic[Target]):
    """Images of any size on the training device, with their targets."""

    images: list[Tensor]
    """(3, H, W) uint8 each."""
    targets: list[Target]
    indices: list[int]
    """Index of each image in its data set."""


class Vary(Protocol):
    """A random variation of one image and its target; draws from the generator alone."""

    def __call__(self, image: Tensor, target: Any, generator: torch.Generator) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class VaryObjects:
    """Half of the images mirrored, with boxes and masks. Sizes are the detector's business."""

    flip: bool

    def __call__(
        self, image: Tensor, target: Objects, generator: torch.Generator
    ) -> tuple[Tensor, Objects]:
        if not self.flip or torch.rand((), generator=generator) < 0.5:
            return image, target
        return image.flip(-1), mirrored(target, image.shape[-1])


@dataclass(frozen=True)
class VaryMap:
    """A random scale, a square crop of it, mirroring, and colours; image and label map alike.

    Args:
        size: pixels a side of the crop; at scale 1 it is also the shorter side of the image.
        flip: mirror half of the images.
        scales: the scale is drawn uniformly from this range; 0.5 to 2 in the paper's recipe.
        color_jitter: share by which brightness, contrast and saturation vary.
    """

    size: int
    flip: bool
    scales: tuple[float, float] = (0.5, 2.0)
    color_jitter: float = 0.0

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        low, high = self.scales
        scale = low + (high - low) * float(torch.rand((), generator=generator))
        shorter = max(1, round(self.size * scale))
        image, target = resized(image, shorter), resized_map(target, shorter)
        short = [max(0, self.size - length) for length in image.shape[-2:]]
        if any(short):
            image = pad(image, (0, short[1], 0, short[0]))
            target = pad(target, (0, short[1], 0, short[0]), value=IGNORE)
        room = [length - self.size + 1 for length in image.shape[-2:]]
        for _ in range(CROP_TRIES):
            y, x = (int(torch.randint(r, (1,), generator=generator)) for r in room)
            crop = target[y : y + self.size, x : x + self.size]
            counts = crop[crop != IGNORE].long().bincount()
            if len(counts) and counts.max() < MOST_OF_ONE_CLASS * counts.sum():
                break
        image = image[:, y : y + self.size, x : x + self.size]
        if self.flip and torch.rand((), generator=generator) < 0.5:
            image, crop = image.flip(-1), crop.flip(-1)
        if self.color_jitter:
            jitter = ColorJitter(*(self.color_jitter,) * 3)
            with torch.random.fork_rng(devices=[]):  # torchvision knows torch's global generator alone
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
                image = jitter(image)
        return image.contiguous(), crop.contiguous()


def mirrored(objects: Objects, width: int) -> Objects:
    """Objects of a mirrored image of this width."""
    x1, y1, x2, y2 = objects.boxes.unbind(1)
    masks = None if objects.masks is None else objects.masks.flip(-1)
    return objects._replace(boxes=torch.stack([width - x2, y1, width - x1, y2], 1), masks=masks)


def resized(image: Tensor, shorter: int) -> Tensor:
    """(3, H, W) uint8 with its shorter side of so many pixels, antialiased."""
    size = _size_of(image, shorter)
    if size == image.shape[-2:]:
        return image
    moved = interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return moved.round().clamp(0, 255).byte()


def resized_map(label_map: Tensor, shorter: int) -> Tensor:
    """(H, W) labels resized as `resized` does their image; labels are picked, never blended."""
    size = _size_of(label_map, shorter)
    return interpolate(label_map[None, None].float(), size=size, mode="nearest-exact")[0, 0].byte()


def _size_of(image: Tensor, shorter: int) -> tuple[int, int]:
    height, width = image.shape[-2:]
    scale = shorter / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


class ReadAnnotated(Dataset[Sample]):
    """Images and targets by key, the place of an image and the seed of its variation."""

    def __init__(self, images: DetectionImages | SegmentationImages, vary: Vary | None) -> None:
        self.images = images
        self.vary = vary

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        image, target = self.images[index]
        if self.vary is not None:
            image, target = self.vary(image, target, torch.Generator().manual_seed(seed))
        return index, image, target


class Reader:
    """Reads batches of keys, in loader processes if asked to.

    Args:
        images: the set.
        vary: what is done to each; None leaves them as they are.
        workers: processes; 0 reads here.
    """

    def __init__(
        self, images: DetectionImages | SegmentationImages, vary: Vary | None, workers: int
    ) -> None:
        self.sampler = KeySampler()
        self.loader: DataLoader[Sample] = DataLoader(
            ReadAnnotated(images, vary),
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=list,
            generator=torch.Generator(),  # torch's global stream belongs to the network
        )


class AnnotatedTraining(Generic[Target]):
    """The training batches of one process, epoch by epoch: lists of images and of targets.

    Args:
        images: the training set.
        order: which images make which batch.
        vary: how they are varied.
        epoch: says which epoch begins, when the first batch of an iteration is asked for.
        device: of the batches.
        workers: processes that read images.
    """

    def __init__(
        self,
        images: DetectionImages | SegmentationImages,
        order: TrainingOrder,
        vary: Vary,
        epoch: Callable[[], int],
        *,
        device: torch.device,
        workers: int,
    ) -> None:
        self.images = images
        self.order = order
        self.epoch = epoch
        self.first = 0
        """The step that the next iteration begins with; it goes back to 0 then."""
        self._device = device
        self._reader = Reader(images, vary, workers)

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[AnnotatedBatch[Target]]:
        epoch, first = self.epoch(), self.first
        self.first = 0
        seed, size, rank = self.order.seed, self.order.batch_size, self.order.rank
        batches = torch.split(self.order.epoch(epoch), size)
        self._reader.sampler.keys = (
            [
                (index, seed_of(seed, "image", epoch, step * size + i, rank))
                for i, index in enumerate(batches[step].tolist())
            ]
            for step in range(first, len(batches))
        )
        for samples in self._reader.loader:
            yield collated(samples, self._device)

    def names(self, epoch: int, step: int, rank: int | None = None) -> list[str]:
        """What the images of a batch are called; of this process, or of another."""
        order = self.order if rank is None else replace(self.order, rank=rank)
        return [self.images.name(index) for index in order.batch(epoch, step).tolist()]


class AnnotatedEvaluation(Generic[Target]):
    """Images as they are, for one process, always in the same order.

    Args:
        images: the set.
        batches: which images make which batch; -1 is none.
        device: of the batches.
        workers: processes that read images.
    """

    def __init__(
        self,
        images: DetectionImages | SegmentationImages,
        batches: Sequence[Tensor],
        *,
        device: torch.device,
        workers: int,
    ) -> None:
        self.batches = batches
        self._device = device
        self._reader = Reader(images, None, workers)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[AnnotatedBatch[Target]]:
        self._reader.sampler.keys = (
            [(index, 0) for index in batch.tolist() if index >= 0] for batch in self.batches
        )
        for samples in self._reader.loader:
            yield collated(samples, self._device)


def collated(samples: Sequence[Sample], device: torch.device) -> AnnotatedBatch[Any]:
    """Make a batch on a device; it may be empty."""
    indices, images, targets = zip(*samples, strict=True) if samples else ((), (), ())
    return AnnotatedBatch(list(moved(images, device)), list(moved(targets, device)), list(indices))


def moved(values: Sequence[Any], device: torch.device) -> Iterator[Any]:
    """Tensors, or tuples of them, on a device."""
    for value in values:
        if isinstance(value, Tensor):
            yield value.to(device, non_blocking=True)
        else:
            yield value._make(None if part is None else part.to(device) for part in value)
