"""Training and evaluation batches on the training device: normalized, channels last, reproducible.

Both loaders are plain iterables, so that nothing comes between them and the training loop, and both can
start an epoch at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augment import (
    Augmentation,
    CropDraw,
    colour_scale,
    cut_out,
    draw_crops,
    draw_lighting,
    normalise,
    pack,
    training_crop,
    training_transform,
    unpack,
)
from .crop import evaluation_crop
from .images import EncodedImages, LabelledImages, StackedImages, cropped
from .keyed_loader import Key, KeyedLoader, shared_bytes
from .order import SHUFFLED, TrainingOrder, generator_of

ON_DEVICE_SHARE = 0.25
"""Largest share of a device's free memory that cached images may take."""
PREFETCHED = 4
"""Batches that each loader worker is ahead."""


class Batch(NamedTuple):
    """Images on the training device, with their targets."""

    images: Tensor
    """(B, 3, S, S) float32, normalized."""
    targets: Tensor
    """(B,) int64 class indices or (B, K) float32 multi-hot, on the device of the images; -1 at an empty
    place."""
    indices: Tensor
    """(B,) int64 on the CPU, the index of each image in its data set; -1 at an empty place."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the context, and restore its state after it.

    ``torch.random.fork_rng`` with ``torch.manual_seed`` takes 50 times as long: it seeds every device.
    """
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


class AugmentedImages(Dataset[Tensor]):
    """Decoded and cropped images by key, a pure function of the key; for loader workers."""

    def __init__(self, images: LabelledImages, augmentation: Augmentation, training: bool) -> None:
        self.images = images
        self.size = augmentation.size
        if training:
            self.choose = training_crop(augmentation)
        else:
            self.choose = evaluation_crop(self.size, augmentation.resize, augmentation.interpolation)
        self.transform = training_transform(augmentation) if training else None

    def __getitem__(self, key: Key) -> Tensor:
        """Return (size, size, 3) uint8: channels last, for the speed of the steps that follow."""
        index, seed = key
        if index < 0:
            return torch.zeros(self.size, self.size, 3, dtype=torch.uint8)
        with seeded(seed):  # torchvision draws from the global generator
            image = cropped(self.images, index, self.choose)
            if self.transform is not None:
                image = self.transform(image)
        return image.permute(1, 2, 0)


class SharedBatches(Dataset[tuple[int, int]]):
    """Writes batches into memory that all processes share; for loader workers.

    To allocate and send memory for each batch, as `DataLoader` does, takes longer than to fill it.

    Args:
        images: read by key.
        slots: number of batches that are in memory at a time.
        batch_size: most images of a batch.
    """

    def __init__(self, images: AugmentedImages, slots: int, batch_size: int) -> None:
        self.images = images
        self.shape = (slots, batch_size, images.size, images.size, 3)

    @cached_property
    def slots(self) -> Tensor:
        """(slots, batch_size, S, S, 3) uint8, to be made before the workers start."""
        return shared_bytes(*self.shape)

    def __getitems__(self, request: tuple[int, list[Key]]) -> tuple[int, int]:
        """Write the images of these keys into a slot; return the slot and their number."""
        slot, keys = request
        for place, key in zip(self.slots[slot], keys, strict=False):
            place.copy_(self.images[key])
        return slot, len(keys)


class Reader:
    """Reads images by key in loader workers and copies them to the device, as bytes.

    With ``training`` they are augmented; otherwise their central crop is taken. A batch has at most
    ``batch_size`` images.
    """

    def __init__(
        self,
        images: LabelledImages,
        augmentation: Augmentation,
        batch_size: int,
        *,
        training: bool,
        workers: int,
        device: torch.device,
    ) -> None:
        self.device = device
        items = AugmentedImages(images, augmentation, training)
        # Those that the workers have been asked for, and the one that was received last.
        self.batches = SharedBatches(items, PREFETCHED * workers + 1, batch_size)
        ahead = PREFETCHED if workers > 0 else None
        self.loader = KeyedLoader(self.batches, workers, collate_fn=tuple, prefetch_factor=ahead)

    def read(self, keys: Iterable[list[Key]]) -> Iterator[Tensor]:
        """Yield (B, 3, S, S) uint8 batches, in the order of the keys.

        Valid until the next one is asked for, which may overwrite it.
        """
        slots = self.batches.slots
        requests = ((step % len(slots), batch) for step, batch in enumerate(keys))
        for slot, count in self.loader.load(requests):
            images = slots[slot, :count]
            if self.device.type == "cuda":
                images = images.pin_memory()  # a copy, so that the one to the device need not be waited for
            yield images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


class HeldImages:
    """`StackedImages` of the input size, packed with a black border; on the device if they fit."""

    def __init__(self, images: LabelledImages, padding: int, device: torch.device) -> None:
        assert isinstance(images, StackedImages)
        self.size = images.images.shape[-1]
        self.packed = pack(images.images, padding)
        if (
            device.type != "cuda"
            or self.packed.nbytes <= ON_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        ):
            self.packed = self.packed.to(device)
        self.device = device

    def take(self, indices: Tensor, draw: CropDraw) -> Tensor:
        """Return (B, 3, S, S) uint8 on the device."""
        home = self.packed.device
        draw = CropDraw(*(t.to(home, non_blocking=True) for t in draw))
        pixels = cut_out(self.packed, indices.to(home, non_blocking=True), draw, self.size)
        return unpack(pixels.to(self.device, non_blocking=True))


def take_targets(labels: Tensor, indices: Tensor) -> Tensor:
    """Return the targets of (B,) images: (B,) int64 or (B, K) float32; -1 where the index is -1."""
    indices = indices.to(labels.device, non_blocking=True)
    targets = labels[indices.clamp(min=0)]
    if targets.ndim == 2:
        return targets.float().masked_fill(indices[:, None] < 0, -1)
    return targets.masked_fill(indices < 0, -1)


class TrainingBatches:
    """Training batches of one process, epoch by epoch.

    A batch depends on seed, epoch, step and rank only.

    Args:
        images: the training set.
        order: which images make up which batch.
        augmentation: applied to the images.
        epoch: returns the epoch that starts; called when the first batch of an iteration is requested.
        device: of the batches.
        hold: keep the images in memory, as `HeldImages`.
        workers: number of processes that read images that are not held in memory.
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
        """First step of the next iteration; reset to 0 when it starts."""
        self._labels = images.labels.to(device)
        self._colours = colour_scale(augmentation.mean, augmentation.std, device)
        self._device = device
        self._padding = augmentation.padding if augmentation.crop == "pad" else 0
        self._held: HeldImages | None = None
        if hold:
            self._held = HeldImages(images, self._padding, device)
        else:
            self._reader = Reader(
                images, augmentation, order.batch_size, training=True, workers=workers, device=device
            )

    def __len__(self) -> int:
        return self.order.steps

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch(), self.first
        self.first = 0
        order = torch.split(self.order.epoch(epoch), self.order.batch_size)
        batches = self._from_memory(epoch, first, order) if self._held else self._read(epoch, first, order)
        for step, images in enumerate(batches, start=first):
            normalised = normalise(images, self._colours, self._lighting(epoch, step, len(images)))
            yield Batch(normalised, take_targets(self._labels, order[step]), order[step])

    def _from_memory(self, epoch: int, first: int, order: Sequence[Tensor]) -> Iterator[Tensor]:
        assert self._held is not None
        for step in range(first, len(order)):
            generator = generator_of(self.order.seed, "crops", epoch, step, self.order.rank)
            draw = draw_crops(len(order[step]), self._padding, self.augmentation.flip, generator)
            yield self._held.take(order[step], draw)

    def _read(self, epoch: int, first: int, order: Sequence[Tensor]) -> Iterator[Tensor]:
        ahead = -(-SHUFFLED // (self.order.batch_size * self.order.ranks))

        def keys() -> Iterator[list[Key]]:
            for step in range(first, len(order)):
                if isinstance(self.images, EncodedImages):
                    self.images.prefetch(order[min(step + ahead, len(order) - 1)])
                yield self.order.keys(epoch, step, order[step])

        return self._reader.read(keys())

    def _lighting(self, epoch: int, step: int, count: int) -> Tensor | None:
        if not self.augmentation.lighting:
            return None
        generator = generator_of(self.order.seed, "lighting", epoch, step, self.order.rank)
        shift = draw_lighting(count, self.augmentation.lighting, generator)
        return shift.to(self._device, non_blocking=True)


class EvaluationBatches:
    """Evaluation batches of one process, without augmentation, always in the same order.

    Args:
        images: the data set.
        batches: the images of each batch; -1 is an empty place.
        augmentation: gives the size and the normalization.
        device, hold, workers: as in `TrainingBatches`.
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
        self._labels = images.labels.to(device)
        self._colours = colour_scale(augmentation.mean, augmentation.std, device)
        self._held: HeldImages | None = None
        if hold:
            self._held = HeldImages(images, 0, device)
        else:
            longest = max(map(len, batches), default=1)
            self._reader = Reader(
                images, augmentation, longest, training=False, workers=workers, device=device
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        images = self._from_memory(self._held) if self._held else self._read()
        for pixels, indices in zip(images, self.batches, strict=True):
            yield Batch(normalise(pixels, self._colours), take_targets(self._labels, indices), indices)

    def _from_memory(self, held: HeldImages) -> Iterator[Tensor]:
        for indices in self.batches:
            zeros = torch.zeros_like(indices)
            yield held.take(indices.clamp(min=0), CropDraw(zeros, zeros, zeros.bool()))

    def _read(self) -> Iterator[Tensor]:
        return self._reader.read([(index, 0) for index in batch.tolist()] for batch in self.batches)
