"""Find out which images a mixed batch is made of, for any mixer.

Every image gets a class and a mask value of its own. The mixed targets are then the label weights of the
source images, and the mixed masks the source of every pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recursivemix.mixing import Draw, MixedBatch, Mixer, create_mixer


class Composition(NamedTuple):
    """The sources of one mixed batch; source ``step % steps * batch_size + i`` is image i of a step."""

    batch: MixedBatch
    label: Tensor
    """(B, S) float32: label weight of each source."""
    pixels: Tensor
    """(B, S) float32: share of the pixels that show each source; mean weight in a blend."""
    shown: Tensor | None
    """(B, H, W) int64: source of every pixel; None for a method that blends."""


class SourceTracker:
    """Runs a mixer on numbered images; ``tracker(images)`` mixes and remembers one batch.

    Args:
        mixer, model, options: as in `create_mixer`.
        batch_size: largest number of images per step.
        steps: number of steps whose sources are distinguished; numbers repeat after them.

    Raises:
        ValueError: an unknown mixer, or options it does not take.
    """

    def __init__(
        self, mixer: str, batch_size: int, steps: int, model: nn.Module | None = None, **options: Any
    ) -> None:
        self.batch_size = batch_size
        self.steps = steps
        self.mixer: Mixer = create_mixer(mixer, batch_size * steps, model, **options)
        self._step = 0

    def start_epoch(self) -> None:
        """Call at the start of each epoch, as training does."""
        self.mixer.start_epoch()

    def __call__(self, images: Tensor, indices: Tensor | None = None) -> Composition:
        """Mix one batch.

        Args:
            images: (B, C, H, W), B up to ``batch_size``.
            indices: (B,) int64 indices in the data set; None uses the source numbers.
        """
        count = len(images)
        first = self._step % self.steps * self.batch_size
        self._step += 1
        sources = torch.arange(first, first + count)
        masks = None
        if not self.mixer.blends:
            masks = sources[:, None, None].expand(-1, *images.shape[-2:]).contiguous()
        batch = self.mixer(images, sources, masks=masks, indices=sources if indices is None else indices)
        self.mixer.remember(batch, torch.zeros_like(batch.targets))
        width = batch.targets.shape[1]
        if batch.masks is None:
            return Composition(batch, batch.targets, blended_pixels(batch.draw, sources, width), None)
        shown = batch.masks
        places = shown.flatten(1) + width * torch.arange(count)[:, None]
        pixels = places.flatten().bincount(minlength=count * width).view(count, width)
        return Composition(batch, batch.targets, pixels / shown[0].numel(), shown)


def blended_pixels(draw: Draw, sources: Tensor, width: int) -> Tensor:
    """Return (B, width) float32: mean weight of each image of a batch in its blends, from its draw."""
    count = len(sources)
    own = torch.ones(count)
    if draw.layer is None or int(draw.layer) == 0:  # otherwise features are mixed, not images
        if draw.weights is not None:
            own = draw.weights.flatten(1).mean(1).expand(count)
        elif draw.lam is not None:
            own = draw.lam.expand(count)
    pixels = torch.zeros(count, width).scatter_(1, sources[:, None], own[:, None])
    partners = sources if draw.partners is None else sources[draw.partners]
    return pixels.scatter_add_(1, partners[:, None], (1 - own)[:, None])
