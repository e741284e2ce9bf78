"""Which locations learn which object: adaptive training sample selection.

ATSS, Zhang et al., arXiv 1912.02424, section 3.2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .losses import iou

CANDIDATES = 9
"""Closest anchors of each level that are looked at for an object; the paper's k."""
LEAST_INSIDE = 0.01
"""Pixels by which an anchor's centre must be inside of a box."""


def atss_assign(
    anchors: Tensor, levels: Sequence[int], boxes: Tensor, candidates: int = CANDIDATES
) -> Tensor:
    """Which object each anchor is trained on.

    The anchors whose centres are closest to an object's centre are its candidates, ``candidates`` of every
    level (or all, where a level has fewer). Those with an IoU of at least the mean plus the standard
    deviation of the candidates' IoUs are positive, if their centre lies in the object's box. An anchor
    that is positive for several objects gets the one that it overlaps most.

    Args:
        anchors: (A, 4) ``(x1, y1, x2, y2)``, level by level.
        levels: how many anchors each level has; their sum is A.
        boxes: (N, 4) of the objects; N may be 0, and boxes of no area get no anchor.

    Returns:
        (A,) int64: the object's index, or -1.
    """
    count = len(anchors)
    if len(boxes) == 0:
        return torch.full((count,), -1, dtype=torch.long, device=anchors.device)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2  # (A, 2)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2  # (N, 2)
    chosen = []
    first = 0
    for length in levels:
        offset = centres[None, first : first + length] - middle[:, None]
        distance = offset.square().sum(-1)  # (N, A_level); its root has the same order
        nearest = distance.topk(min(candidates, length), largest=False, sorted=False).indices
        chosen.append(nearest + first)
        first += length
    index = torch.cat(chosen, 1)  # (N, C)
    overlap = iou(anchors[index], boxes[:, None])  # (N, C)
    # Unbiased, as the paper's code has it; of one candidate there is none.
    spread = overlap.std(1) if index.shape[1] > 1 else overlap.new_zeros(len(boxes))
    threshold = overlap.mean(1) + spread
    at = centres[index]  # (N, C, 2)
    margin = torch.minimum(at - boxes[:, None, :2], boxes[:, None, 2:] - at).amin(-1)
    positive = (overlap >= threshold[:, None]) & (margin > LEAST_INSIDE)
    # Each anchor's overlap with each object it is positive for; the largest wins, of equals the first.
    table = overlap.new_full((len(boxes), count), -1.0)
    table.scatter_(1, index, torch.where(positive, overlap, -1.0))
    best, owner = table.max(0)
    return torch.where(best >= 0, owner, -1)
