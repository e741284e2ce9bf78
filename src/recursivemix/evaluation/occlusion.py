"""Accuracy with a growing part of the image covered by one box of the data set's mean colour."""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.order import generator_of

from .probe import Curve, Metric, Probe, accuracy_by
from .subject import Subject

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Covered shares of the image area."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure the accuracy at each covered share."""
    images, labels = subject.subset.images, subject.subset.labels
    values = [
        subject.predictor.accuracy(
            occluded(images, share, subject.data.mean, generator_of(subject.seed, "occlusion", i)), labels
        )
        for i, share in enumerate(SHARES)
    ]
    curve = {"share": list(SHARES), "top1": values, "images": len(images)}
    return {"occlusion": curve, "occlusion_mean": fmean(values[1:])}


def occluded(images: Tensor, share: float, colour: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Return copies of images with one box per image covered, at a random position inside the image.

    Args:
        images: (N, 3, H, W) uint8 on the CPU.
        share: covered share of the area, in [0, 1]; the box has the aspect ratio of the image and sides
            rounded to pixels.
        colour: RGB in [0, 1] of the box.
        generator: source of the positions.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    count, _, height, width = images.shape
    h, w = round(share**0.5 * height), round(share**0.5 * width)
    rows, columns = torch.arange(height), torch.arange(width)
    position = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    top = (position[:, 0] * (height - h + 1)).long()[:, None]
    left = (position[:, 1] * (width - w + 1)).long()[:, None]
    inside_rows = (rows >= top) & (rows < top + h)  # (N, H)
    inside_columns = (columns >= left) & (columns < left + w)  # (N, W)
    covered = (inside_rows[:, :, None] & inside_columns[:, None])[:, None]  # (N, 1, H, W)
    fill = torch.tensor([round(255 * value) for value in colour], dtype=torch.uint8).view(1, 3, 1, 1)
    return torch.where(covered, fill, images)


PROBE = Probe(
    name="occlusion",
    measures="accuracy with a growing part of the image covered",
    cost=f"{len(SHARES)} forward passes over the subset",
    run=run,
    metrics=(Metric("occlusion_mean", "Accuracy under occlusion", ("occlusion_mean",)),),
    curves=(
        Curve(
            "Occlusion",
            "covered share of the image, %",
            "One box at a random position, with the aspect ratio of the image.",
            partial(accuracy_by, "occlusion", "share"),
        ),
    ),
    section="Robustness",
)
