"""Of which images a mixed batch is made: every image is a class of its own, and its own id in a mask.

A mixer then tells by itself what it mixed: its targets are the weights of the images in the label, its
masks the pixels that each of them shows. No method is known here by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recursivemix.mixing import Draw, MixedBatch, Mixer, create_mixer


class Composition(NamedTuple):
    """What one mixed batch is made of. S sources: ``step % steps * batch_size + place in its batch``."""

    batch: MixedBatch
    label: Tensor
    """(B, S) float32: weight of each source in the label."""
    pixels: Tensor
    """(B, S) float32: share of the pixels that show each source; of a blend its mean weight."""
    shown: Tensor | None
    """(B, H, W) int64: the source that every pixel shows; None for a method that blends."""


class SourceTracker:
    """Runs a mixer on numbered images; ``tracker(images)`` is one step, remembered at once.

    Args:
        mixer: a name in `recursivemix.mixing.MIXERS`.
        batch_size: images a step at most.
        steps: after so many steps the numbers of images are used again.
        model: the network, for a method that works inside it.
        options: keyword arguments of the mixer.

    Raises:
        ValueError: an unknown mixer, or options that it does not take.
    """

    def __init__(
        self, mixer: str, batch_size: int, steps: int, model: nn.Module | None = None, **options: Any
    ) -> None:
        self.batch_size = batch_size
        self.steps = steps
        self.mixer: Mixer = create_mixer(mixer, batch_size * steps, model, **options)
        self._step = 0

    def start_epoch(self) -> None:
        """To be called as an epoch begins, as in training."""
        self.mixer.start_epoch()

    def __call__(self, images: Tensor, indices: Tensor | None = None) -> Composition:
        """Mix one batch.

        Args:
            images: (B, C, H, W), B up to ``batch_size``.
            indices: (B,) int64, which image of the data each one is. None: numbers of this step.
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
    """(B, width) float32: mean weight of the images of one batch in their blends, from its draw."""
    count = len(sources)
    own = torch.ones(count)
    if draw.layer is None or int(draw.layer) == 0:  # else the images are left as they are
        if draw.weights is not None:
            own = draw.weights.flatten(1).mean(1).expand(count)
        elif draw.lam is not None:
            own = draw.lam.expand(count)
    pixels = torch.zeros(count, width).scatter_(1, sources[:, None], own[:, None])
    partners = sources if draw.partners is None else sources[draw.partners]
    return pixels.scatter_add_(1, partners[:, None], (1 - own)[:, None])
