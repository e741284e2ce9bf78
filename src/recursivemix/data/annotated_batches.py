"""Training and evaluation batches of annotated images: read and transformed in workers, in lists.

A batch is a pure function of (seed, epoch, step, rank), as for plain images: see `order`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.utils.data import Dataset
from torchvision.transforms.v2 import ColorJitter

from .annotated import IGNORE, DetectionImages, Objects, SegmentationImages
from .keyed_loader import KeyedLoader
from .order import TrainingOrder

Target = TypeVar("Target", Objects, Tensor)
Sample = tuple[int, Tensor, Any]
"""Index of an image in its data set, (3, H, W) uint8, and its target."""
MOST_OF_ONE_CLASS = 0.75
"""Largest share of one class in a crop's labels; otherwise another crop is tried (as mmsegmentation)."""
CROP_TRIES = 10


class AnnotatedBatch(NamedTuple, Generic[Target]):
    """Images of any size on the training device, with their targets."""

    images: list[Tensor]
    """(3, H, W) uint8 each."""
    targets: list[Target]
    indices: list[int]
    """Index of each image in its data set."""


JointTransform = Callable[[Tensor, Any, torch.Generator], tuple[Tensor, Any]]
"""Random transform of an image together with its target; it draws from the generator only."""


@dataclass(frozen=True)
class DetectionTransform:
    """Mirror half of the images, with boxes and masks, and vary their colors; the detector resizes."""

    flip: bool
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""

    def __call__(
        self, image: Tensor, target: Objects, generator: torch.Generator
    ) -> tuple[Tensor, Objects]:
        if self.flip and torch.rand((), generator=generator) >= 0.5:
            image, target = image.flip(-1), mirrored(target, image.shape[-1])
        return with_color_jitter(image, self.color_jitter, generator), target


@dataclass(frozen=True)
class SegmentationTransform:
    """Random scale, square crop, mirroring and colours, for an image and its label map.

    Args:
        size: side of the crop in pixels, and shorter side of the image at scale 1.
        flip: mirror half of the images.
        scales: range of the uniformly drawn scale; 0.5 to 2 as published.
        color_jitter: largest relative change of brightness, contrast and saturation.
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
        image = with_color_jitter(image, self.color_jitter, generator)
        return image.contiguous(), crop.contiguous()


def with_color_jitter(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Vary brightness, contrast and saturation of (3, H, W) uint8 by random factors up to ``strength``."""
    if not strength:
        return image
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        jittered: Tensor = ColorJitter(*(strength,) * 3)(image)
    return jittered


def mirrored(objects: Objects, width: int) -> Objects:
    """Mirror the objects of an image of this width."""
    x1, y1, x2, y2 = objects.boxes.unbind(1)
    masks = None if objects.masks is None else objects.masks.flip(-1)
    return objects._replace(boxes=torch.stack([width - x2, y1, width - x1, y2], 1), masks=masks)


def resized(image: Tensor, shorter: int) -> Tensor:
    """Resize (3, H, W) uint8 to a shorter side in pixels, antialiased."""
    size = _size_of(image, shorter)
    if size == image.shape[-2:]:
        return image
    moved = interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return moved.round().clamp(0, 255).byte()


def resized_map(label_map: Tensor, shorter: int) -> Tensor:
    """Resize (H, W) labels as `resized` does their image; labels are picked (nearest), not interpolated."""
    size = _size_of(label_map, shorter)
    return interpolate(label_map[None, None].float(), size=size, mode="nearest-exact")[0, 0].byte()


def _size_of(image: Tensor, shorter: int) -> tuple[int, int]:
    height, width = image.shape[-2:]
    scale = shorter / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


class TransformedImages(Dataset[Sample]):
    """Images and targets by key: the index of an image and the seed of its transform."""

    def __init__(
        self, images: DetectionImages | SegmentationImages, transform: JointTransform | None
    ) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        image, target = self.images[index]
        if self.transform is not None:
            image, target = self.transform(image, target, torch.Generator().manual_seed(seed))
        return index, image.contiguous(), target  # as workers hand it over


class JoinedSamples(NamedTuple):
    """Samples with one tensor for each data type: a tensor that a worker hands over takes open files.

    A process may have 1,024 of them; with several tensors for each image, large batches take more.
    """

    places: list[tuple[int, Any, Any]]
    """Each sample, with data type and shape in place of its tensors."""
    values: dict[torch.dtype, Tensor]
    """All values of a data type, in the order of the samples."""


def joined(samples: Sequence[Sample]) -> JoinedSamples:
    """Join the tensors of samples; `separated` is the inverse."""
    values: dict[torch.dtype, list[Tensor]] = {}

    def put(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        values.setdefault(tensor.dtype, []).append(tensor.flatten())
        return tensor.dtype, tensor.shape

    places = [
        (index, put(image), [*map(put, target)] if isinstance(target, Objects) else put(target))
        for index, image, target in samples
    ]
    return JoinedSamples(places, {dtype: torch.cat(parts) for dtype, parts in values.items()})


def separated(samples: JoinedSamples) -> list[Sample]:
    """Return the samples of `joined`, as views."""
    first = dict.fromkeys(samples.values, 0)

    def take(place: Any) -> Any:
        if place is None:
            return None
        dtype, shape = place
        start = first[dtype]
        first[dtype] += shape.numel()
        return samples.values[dtype][start : first[dtype]].view(shape)

    return [
        (index, take(image), Objects(*map(take, target)) if isinstance(target, list) else take(target))
        for index, image, target in samples.places
    ]


def sample_loader(
    images: DetectionImages | SegmentationImages, transform: JointTransform | None, workers: int
) -> KeyedLoader[Sample]:
    """Return a loader of what `collated` takes; samples are `joined` on their way out of workers alone."""
    collate = joined if workers > 0 else list
    return KeyedLoader(TransformedImages(images, transform), workers, collate_fn=collate)


class AnnotatedTraining(Generic[Target]):
    """Training batches of one process, epoch by epoch; arguments as in `TrainingBatches`."""

    def __init__(
        self,
        images: DetectionImages | SegmentationImages,
        order: TrainingOrder,
        transform: JointTransform,
        epoch: Callable[[], int],
        *,
        device: torch.device,
        workers: int,
    ) -> None:
        self.images = images
        self.order = order
        self.epoch = epoch
        self.first = 0
        """First step of the next iteration; reset to 0 when it starts."""
        self._device = device
        self._loader = sample_loader(images, transform, workers)

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[AnnotatedBatch[Target]]:
        epoch, first = self.epoch(), self.first
        self.first = 0
        batches = torch.split(self.order.epoch(epoch), self.order.batch_size)
        steps = range(first, len(batches))
        for samples in self._loader.load(self.order.keys(epoch, step, batches[step]) for step in steps):
            yield collated(samples, self._device)


class AnnotatedEvaluation(Generic[Target]):
    """Evaluation batches of one process, without transforms, always in the same order.

    In ``batches``, which hold the images of each batch, -1 is an empty place, which is left out.
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
        self._loader = sample_loader(images, None, workers)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[AnnotatedBatch[Target]]:
        keys = ([(index, 0) for index in batch.tolist() if index >= 0] for batch in self.batches)
        for samples in self._loader.load(keys):
            yield collated(samples, self._device)


def collated(samples: JoinedSamples | list[Sample], device: torch.device) -> AnnotatedBatch[Any]:
    """Make a batch on a device; it may be empty."""
    if isinstance(samples, JoinedSamples):
        samples = separated(samples)
    return AnnotatedBatch(
        [image.to(device, non_blocking=True) for _, image, _ in samples],
        [_moved(target, device) for _, _, target in samples],
        [index for index, _, _ in samples],
    )


def _moved(target: Any, device: torch.device) -> Any:
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    return target._make(None if part is None else part.to(device, non_blocking=True) for part in target)
