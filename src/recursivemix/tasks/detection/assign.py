"""Assign objects to anchors: adaptive training sample selection.

ATSS, Zhang et al., arXiv 1912.02424, section 3.2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .losses import iou

CANDIDATES = 9
"""Candidate anchors per object and level; k in the paper."""
MIN_INSIDE = 0.01
"""Smallest distance in pixels from the center of a positive anchor to the border of its box."""


def atss_assign(
    anchors: Tensor, levels: Sequence[int], boxes: Tensor, candidates: int = CANDIDATES
) -> Tensor:
    """Return the object that each anchor is trained on.

    The candidates of an object are the ``candidates`` anchors of each level whose centers are closest to
    the object's center (all anchors, if a level has fewer). A candidate is positive if its IoU is at least
    the mean plus the standard deviation of the candidates' IoUs, and its center lies in the object's box.
    An anchor that is positive for several objects is assigned to the one with the largest IoU.

    Args:
        anchors: (A, 4) ``(x1, y1, x2, y2)``, level by level.
        levels: number of anchors per level; their sum is A.
        boxes: (N, 4) boxes of the objects; N may be 0, and boxes without area get no anchor.

    Returns:
        (A,) int64: the object's index, or -1.
    """
    count = len(anchors)
    if len(boxes) == 0:
        return torch.full((count,), -1, dtype=torch.long, device=anchors.device)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2  # (A, 2)
    box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2  # (N, 2)
    chosen = []
    first = 0
    for length in levels:
        offset = centers[None, first : first + length] - box_centers[:, None]
        distance = offset.square().sum(-1)  # (N, A_level); the square root has the same order
        nearest = distance.topk(min(candidates, length), largest=False, sorted=False).indices
        chosen.append(nearest + first)
        first += length
    index = torch.cat(chosen, 1)  # (N, C)
    overlap = iou(anchors[index], boxes[:, None])  # (N, C)
    # The unbiased deviation, as in the paper's code; it does not exist for a single candidate.
    spread = overlap.std(1) if index.shape[1] > 1 else overlap.new_zeros(len(boxes))
    threshold = overlap.mean(1) + spread
    center = centers[index]  # (N, C, 2)
    margin = torch.minimum(center - boxes[:, None, :2], boxes[:, None, 2:] - center).amin(-1)
    positive = (overlap >= threshold[:, None]) & (margin > MIN_INSIDE)
    # IoU of each anchor with each object it is positive for; the largest wins, the first of equal ones.
    table = overlap.new_full((len(boxes), count), -1.0)
    table.scatter_(1, index, torch.where(positive, overlap, -1.0))
    best, owner = table.max(0)
    return torch.where(best >= 0, owner, -1)
