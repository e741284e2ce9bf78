"""Batches on the training device: normalised, channels last, always the same for their step.

Both kinds of loader are plain iterables, so that nothing is put between them and the training loop, and
both can begin an epoch in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import (
    Augmentation,
    CropDraw,
    colour_scale,
    cut_out,
    draw_crops,
    draw_lighting,
    evaluation_transform,
    normalise,
    pack,
    training_transform,
    unpack,
)
from .images import LabelledImages, StackedImages
from .order import TrainingOrder, generator_of, seed_of

Pixels = tuple[Tensor, Tensor]
"""(B, 3, S, S) uint8 and (B,) int64 class indices; -1 is no image."""
Key = tuple[int, int]
"""Which image, and the seed of its augmentation; image -1 is none."""
Keys = Iterable[list[Key]]

ON_DEVICE_SHARE = 0.25
"""Of a device's free memory, how much the images may take to be kept there."""


class Batch(NamedTuple):
    """Images on the training device, with their targets."""

    images: Tensor
    """(B, 3, S, S) float32, normalized."""
    targets: Tensor
    """(B,) int64 class indices, on the device of the images; -1 at an empty place."""
    indices: Tensor
    """(B,) int64 on the CPU, the index of each image in its data set; -1 at an empty place."""


class ReadImages(Dataset[tuple[Tensor, int]]):
    """Images decoded and cropped by key, a pure function of it; for loader processes."""

    def __init__(self, images: LabelledImages, augmentation: Augmentation, training: bool) -> None:
        self.images = images
        self.size = augmentation.size
        make = training_transform(augmentation) if training else evaluation_transform(augmentation.size)
        self.transform = make

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        index, seed = key
        if index < 0:
            return torch.zeros(3, self.size, self.size, dtype=torch.uint8), -1
        image, label = self.images[index]
        # torchvision's transforms know torch's global generator alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(image), label


class KeySampler:
    """The batches of keys that the next iteration is to read, made as they are wanted."""

    def __init__(self) -> None:
        self.keys: Keys = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.keys)


class Reader:
    """Reads keys in loader processes and brings the images to the device, as bytes.

    Args:
        images: the set.
        augmentation: what is done to each.
        training: vary them; else the middle.
        workers: processes; 0 reads here.
        device: of the batches.
    """

    def __init__(
        self,
        images: LabelledImages,
        augmentation: Augmentation,
        *,
        training: bool,
        workers: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self.sampler = KeySampler()
        self.loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            ReadImages(images, augmentation, training),
            batch_sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers > 0 else None,
            # Its own generator: torch's global stream belongs to the network.
            generator=torch.Generator(),
        )

    def read(self, keys: Keys) -> Iterator[Pixels]:
        """(B, 3, S, S) uint8 and (B,) int64, in the order of the keys."""
        self.sampler.keys = keys
        for images, labels in self.loader:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


class HeldImages:
    """Images held in memory, packed, on the device where they fit.

    Args:
        images: all of one size.
        padding: black pixels around each.
        device: of the batches.
    """

    def __init__(self, images: StackedImages, padding: int, device: torch.device) -> None:
        self.size = images.images.shape[-1]
        packed = pack(images.images, padding)
        home = device if _fits(packed, device) else torch.device("cpu")
        self.packed, self.labels = packed.to(home), images.labels.to(home)
        self.device = device

    def take(self, indices: Tensor, draw: CropDraw) -> Pixels:
        """(B, 3, S, S) uint8 and (B,) int64 on the device."""
        home = self.packed.device
        indices = indices.to(home, non_blocking=True)
        draw = CropDraw(*(t.to(home, non_blocking=True) for t in draw))
        pixels, labels = cut_out(self.packed, indices, draw, self.size), self.labels[indices]
        return (
            unpack(pixels.to(self.device, non_blocking=True)),
            labels.to(self.device, non_blocking=True),
        )


class TrainingBatches:
    """The training batches of one process, epoch by epoch.

    A batch depends on the seed, the epoch, the step and the rank alone.

    Args:
        images: the training set.
        order: which images make which batch.
        augmentation: how they are varied.
        epoch: says which epoch begins, when the first batch of an iteration is asked for.
        device: of the batches.
        hold: keep the images in memory, on the device where they fit; they must be `StackedImages` of the
            network's size.
        workers: processes that read images which are not held in memory.
    """

    def __init__(
        self,
        images: LabelledImages,
        order: TrainingOrder,
        augmentation: Augmentation,
        epoch: Callable[[], int],
        *,
        device: torch.device,
        hold: bool,
        workers: int = 0,
    ) -> None:
        self.images = images
        self.order = order
        self.augmentation = augmentation
        self.epoch = epoch
        self.first = 0
        """The step that the next iteration begins with; it goes back to 0 then."""
        self._colours = colour_scale(augmentation.mean, augmentation.std, device)
        self._device = device
        self._padding = augmentation.padding if augmentation.crop == "pad" else 0
        self._held: HeldImages | None = None
        if hold:
            assert isinstance(images, StackedImages)
            self._held = HeldImages(images, self._padding, device)
        else:
            self._reader = Reader(images, augmentation, training=True, workers=workers, device=device)

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch(), self.first
        self.first = 0
        order = torch.split(self.order.epoch(epoch), self.order.batch_size)
        batches = self._from_memory(epoch, first, order) if self._held else self._read(epoch, first, order)
        for step, (images, labels) in enumerate(batches, start=first):
            normalised = normalise(images, self._colours, self._lighting(epoch, step, len(images)))
            yield Batch(normalised, labels, order[step])

    def names(self, epoch: int, step: int, rank: int | None = None) -> list[str]:
        """What the images of a batch are called; of this process, or of another."""
        order = self.order if rank is None else replace(self.order, rank=rank)
        return [self.images.name(index) for index in order.batch(epoch, step).tolist()]

    def _from_memory(self, epoch: int, first: int, order: Sequence[Tensor]) -> Iterator[Pixels]:
        assert self._held is not None
        for step in range(first, len(order)):
            generator = generator_of(self.order.seed, "crops", epoch, step, self.order.rank)
            draw = draw_crops(len(order[step]), self._padding, self.augmentation.flip, generator)
            yield self._held.take(order[step], draw)

    def _read(self, epoch: int, first: int, order: Sequence[Tensor]) -> Iterator[Pixels]:
        seed, size, rank = self.order.seed, self.order.batch_size, self.order.rank
        keys = (
            [
                (index, seed_of(seed, "image", epoch, step * size + i, rank))
                for i, index in enumerate(order[step].tolist())
            ]
            for step in range(first, len(order))
        )
        return self._reader.read(keys)

    def _lighting(self, epoch: int, step: int, count: int) -> Tensor | None:
        if not self.augmentation.lighting:
            return None
        generator = generator_of(self.order.seed, "lighting", epoch, step, self.order.rank)
        shift = draw_lighting(count, self.augmentation.lighting, generator)
        return shift.to(self._device, non_blocking=True)


class EvaluationBatches:
    """Images as they are, for one process, always in the same order.

    Args:
        images: the set.
        batches: which images make which batch; -1 is none, and its label too.
        augmentation: tells size and colours; nothing is varied.
        device: of the batches.
        hold: see `TrainingBatches`.
        workers: processes that read images which are not held in memory.
    """

    def __init__(
        self,
        images: LabelledImages,
        batches: Sequence[Tensor],
        augmentation: Augmentation,
        *,
        device: torch.device,
        hold: bool,
        workers: int = 0,
    ) -> None:
        self.batches = batches
        self._colours = colour_scale(augmentation.mean, augmentation.std, device)
        self._device = device
        self._held: HeldImages | None = None
        if hold:
            assert isinstance(images, StackedImages)
            self._held = HeldImages(images, 0, device)
        else:
            self._reader = Reader(images, augmentation, training=False, workers=workers, device=device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._from_memory(self._held) if self._held else self._read()
        for (images, labels), indices in zip(batches, self.batches, strict=True):
            yield Batch(normalise(images, self._colours), labels, indices)

    def _from_memory(self, held: HeldImages) -> Iterator[Pixels]:
        for indices in self.batches:
            zeros = torch.zeros_like(indices)
            images, labels = held.take(indices.clamp(min=0), CropDraw(zeros, zeros, zeros.bool()))
            missing = (indices < 0).to(self._device, non_blocking=True)
            yield images, torch.where(missing, -1, labels)

    def _read(self) -> Iterator[Pixels]:
        return self._reader.read([(index, 0) for index in batch.tolist()] for batch in self.batches)


def _fits(packed: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return packed.nbytes <= ON_DEVICE_SHARE * free
