"""SaliencyMix (Uddin et al., arXiv 2006.01791): CutMix's box where the other image shows something."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Inputs, Mixed, unmixed
from .checks import beta_parameter
from .draw import Draw, as_column, gated_lam, random_partners
from .labels import fuse_partners
from .mixer import Mixer
from .paste import paste

SCALES = (0.125, 0.25, 0.5)
"""Sides of the surroundings that a pixel is compared with, as shares of the image side."""


class SaliencyMix(Mixer):
    """Paste a box of area ``1 - lam``, ``lam`` ~ Beta(alpha, alpha), around the partner's salient pixel.

    The box is pasted at the same place and clipped at the border, after which ``lam`` is the share of
    pixels that are left. Saliency is how much a pixel's neighbourhood differs from its surroundings at
    three scales, the same kind of map as the paper's, which uses OpenCV's. Each partner has its own place;
    the paper's code uses the place of the batch's first image for all.

    Args:
        alpha: Beta parameter, above 0; 1.0 as in CutMix.
        others: See `Mixer`.
    """

    draws = ("lam", "partners")

    def __init__(self, num_classes: int, *, alpha: float = 1.0, **others: Any) -> None:
        super().__init__(num_classes, **others)
        self.alpha = beta_parameter(alpha)

    def make_draw(self, batch_size: int, size: tuple[int, ...], generator: torch.Generator) -> Draw:
        count = batch_size if self.per_sample else 1
        lam = as_column(gated_lam(self.alpha, self.prob, count, generator))
        return Draw(lam=lam, partners=random_partners(batch_size, generator))

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        if draw.lam is None or draw.partners is None:
            return unmixed(inputs)
        images, device, d = inputs.images, inputs.images.device, len(self.spatial_dims)
        partners = draw.partners.to(device, non_blocking=True)
        peaks = salient_pixels(images, d)[partners]
        size = images.shape[-d:]
        boxes = boxes_around(peaks, 1 - draw.lam, tuple(size))
        pixels = (boxes[:, d:] - boxes[:, :d]).prod(1)
        lam = 1 - pixels.float() / size.numel()

        def mix(values: Tensor) -> Tensor:
            options: dict[str, Any] = {"dims": d, "shrunk": False, "inplace": self.inplace}
            return paste(values, values, boxes, partners=partners, **options)[0]

        return Mixed(
            mix(images),
            fuse_partners(inputs.labels, inputs.num_classes, lam, partners),
            lam,
            masks=None if inputs.masks is None else mix(inputs.masks),
        )


def saliency(images: Tensor, dims: int) -> Tensor:
    """Return (B, S1, ..., Sd) float32: centre against surround, of the mean over all channels.

    A pixel's neighbourhood is the mean over three pixels along each side; its surroundings are the means
    over `SCALES` of the image side. Their distances are added up. At the border a mean covers the pixels
    inside the image.
    """
    grey = images.float().reshape(len(images), -1, *images.shape[-dims:]).mean(1, keepdim=True)
    near = _mean_around(grey, [3] * dims)
    total = torch.zeros_like(near)
    for scale in SCALES:
        sides = [max(3, int(scale * length)) for length in images.shape[-dims:]]
        total = total + (near - _mean_around(grey, sides)).abs()
    return total[:, 0]


def salient_pixels(images: Tensor, dims: int) -> Tensor:
    """Return (B, d) int64: the most salient pixel of each image, the first of several, (y, x)."""
    flat = saliency(images, dims).flatten(1).argmax(1)
    places = []
    for length in reversed(images.shape[-dims:]):
        places.append(flat % length)
        flat = flat.div(length, rounding_mode="floor")
    return torch.stack(places[::-1], 1)


def boxes_around(centres: Tensor, area: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return (B, 2 d) int64 boxes as `recursivemix.mixing.draw.centred_boxes` does, around given pixels.

    Args:
        centres: (B, d) int64, (y, x).
        area: (1,) or (B,) share of the image in [0, 1], before clipping; on the CPU.
        size: Of the image.
    """
    limit = torch.tensor(size, device="cpu")
    # On the CPU: some devices have no float64.
    half = (limit * area.double()[:, None] ** (1 / len(size))).long() // 2  # (1 or B, d)
    half, limit = (v.to(centres.device, non_blocking=True) for v in (half, limit))
    starts, ends = (centres - half).clamp(min=0), torch.minimum(centres + half, limit)
    return torch.cat([starts.flip(1), ends.flip(1)], 1)


def _mean_around(images: Tensor, sides: list[int]) -> Tensor:
    """Return the mean over a window of (odd) sides around each pixel of (B, 1, S1, ..., Sd)."""
    # One dimension at a time: pooling whole windows costs the square of half a side for every pixel.
    for i, side in enumerate(sides):
        rows = images.movedim(2 + i, -1)
        odd = side + 1 - side % 2
        pooled = F.avg_pool1d(
            rows.reshape(-1, 1, rows.shape[-1]), odd, 1, odd // 2, count_include_pad=False
        )
        images = pooled.view(rows.shape).movedim(-1, 2 + i)
    return images
