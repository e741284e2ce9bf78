"""Four test images of four classes in one: does the network name all of them?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .scale import shrunk

PICTURES = 500


class FourInOne(NamedTuple):
    """Pictures made of four."""

    images: Tensor
    """(P, 3, H, W) uint8."""
    labels: Tensor
    """(P, 4) class indices, all different: top left, top right, bottom left, bottom right."""
    quarters: Tensor
    """(4, 4) int64 boxes ``(x1, y1, x2, y2)`` of the four in every picture."""


def four_in_one(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> FourInOne | None:
    """Pictures of four images of different classes, each shrunk to a quarter.

    Args:
        images: (N, 3, H, W) uint8 on the CPU.
        labels: (N,) class indices.
        count: P, how many pictures.
        generator: of the choice.

    Returns:
        None where there are fewer than four classes, or fewer than two pixels a side.
    """
    height, width = images.shape[-2:]
    h, w = height // 2, width // 2
    classes = labels.unique()  # type: ignore[no-untyped-call]
    if len(classes) < 4 or min(h, w) < 1:
        return None
    members = {int(k): (labels == k).nonzero()[:, 0] for k in classes}
    chosen = []
    for _ in range(count):
        four = classes[torch.randperm(len(classes), generator=generator)[:4]].tolist()
        picks = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        chosen.append([int(members[k][int(u * len(members[k]))]) for k, u in zip(four, picks, strict=True)])
    index = torch.tensor(chosen)  # (P, 4)
    small = shrunk(images, (h, w))
    quarters = torch.tensor(
        [[x, y, x + w, y + h] for y in (0, height - h) for x in (0, width - w)], dtype=torch.int64
    )
    pictures = images.new_zeros(count, images.shape[1], height, width)
    for i, (x1, y1, x2, y2) in enumerate(quarters.tolist()):
        pictures[:, :, y1:y2, x1:x2] = small[index[:, i]]
    return FourInOne(pictures, labels[index], quarters)


def found_in_top4(logits: Tensor, labels: Tensor) -> Tensor:
    """(P, 4) bool: which of each picture's four classes are among the four likeliest."""
    top = logits.topk(4, 1).indices  # (P, 4)
    return (labels[:, :, None] == top[:, None]).any(2)
