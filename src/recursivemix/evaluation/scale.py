"""Accuracy with the image shrunk and pasted onto another test image."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recursivemix.data.order import generator_of

from .probe import Curve, Metric, Probe, accuracy_by
from .subject import Subject

SIDES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Sides of the shrunk image as shares of the image side."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure the accuracy at each side."""
    images, labels = subject.subset.images, subject.subset.labels
    values = [
        subject.predictor.accuracy(
            on_other_image(images, side, generator_of(subject.seed, "scale", i)), labels
        )
        for i, side in enumerate(SIDES)
    ]
    curve = {"side": list(SIDES), "top1": values, "images": len(images)}
    return {"scale": curve, "scale_mean": fmean(values[1:])}


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, 3, H, W) uint8 images to ``size``, antialiased."""
    if images.shape[-2:] == size:
        return images
    small = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def on_other_image(images: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """Shrink each image and paste it at a random position of another one; the label stays its own.

    The background is the image half the set away, mostly of another class. It competes with the pasted
    image more, the smaller that is.

    Args:
        images: (N, 3, H, W) uint8 on the CPU; at least two unless ``side`` is 1.
        side: side of the shrunk image as a share of the image side, in (0, 1].
        generator: source of the positions.
    """
    if not 0 < side <= 1:
        raise ValueError(f"side must be in (0, 1], got {side}")
    count, _, height, width = images.shape
    h, w = max(1, round(side * height)), max(1, round(side * width))
    small = shrunk(images, (h, w))
    result = images.roll(max(1, count // 2), 0)
    position = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    tops = (position[:, 0] * (height - h + 1)).long().tolist()
    lefts = (position[:, 1] * (width - w + 1)).long().tolist()
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        result[i, :, top : top + h, left : left + w] = small[i]
    return result


PROBE = Probe(
    name="scale",
    measures="accuracy with the image shrunk and pasted onto another one",
    cost=f"{len(SIDES)} forward passes over the subset",
    run=run,
    metrics=(Metric("scale_mean", "Accuracy on shrunk objects", ("scale_mean",)),),
    curves=(
        Curve(
            "Scale",
            "side of the object, % of the image",
            "The image shrunk, with another image as background.",
            partial(accuracy_by, "scale", "side"),
        ),
    ),
    section="Robustness",
)
