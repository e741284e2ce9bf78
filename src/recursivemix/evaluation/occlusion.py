"""A patch of the data's mean colour that covers more and more of the image."""

from __future__ import annotations

import torch
from torch import Tensor

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the image's area."""


def occluded(images: Tensor, share: float, colour: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Copies of (N, 3, H, W) uint8 images with one box of ``share`` of the area covered, anywhere inside.

    Args:
        images: on the CPU.
        share: in [0, 1]; the box has the image's aspect, its sides are rounded to pixels.
        colour: of the box, in [0, 1].
        generator: of the places.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of the area must be in [0, 1], got {share}")
    count, _, height, width = images.shape
    h, w = round(share**0.5 * height), round(share**0.5 * width)
    rows, columns = torch.arange(height), torch.arange(width)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    top = (place[:, 0] * (height - h + 1)).long()[:, None]
    left = (place[:, 1] * (width - w + 1)).long()[:, None]
    inside_rows = (rows >= top) & (rows < top + h)  # (N, H)
    inside_columns = (columns >= left) & (columns < left + w)  # (N, W)
    covered = (inside_rows[:, :, None] & inside_columns[:, None])[:, None]  # (N, 1, H, W)
    fill = torch.tensor([round(255 * value) for value in colour], dtype=torch.uint8).view(1, 3, 1, 1)
    return torch.where(covered, fill, images)
