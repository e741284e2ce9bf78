"""Losses of one-stage detectors that torchvision lacks. All are float32 and unreduced."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot


def quality_focal_loss(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Return the focal loss for targets between 0 and 1, Li et al., arXiv 2006.04388, equation 4.

    Args:
        logits: any shape.
        quality: the same shape, in [0, 1].

    Returns:
        The same shape.
    """
    distance = (quality - logits.sigmoid()).abs().pow(beta)
    return distance * binary_cross_entropy_with_logits(logits, quality, reduction="none")


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Return the cross-entropy with the two bins around a distance, arXiv 2006.04388, equation 6.

    Args:
        logits: (..., R + 1), one for each of the bins 0..R.
        distance: (...) in [0, R), in bins.

    Returns:
        (...)
    """
    left = distance.floor().long()
    right_share = distance - left
    bins = logits.shape[-1]
    soft = (
        one_hot(left, bins) * (1 - right_share)[..., None]
        + one_hot(left + 1, bins) * right_share[..., None]
    )
    return cross_entropy(logits.flatten(0, -2), soft.flatten(0, -2), reduction="none").view_as(distance)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Return how central a point lies in a box, Tian et al., arXiv 1904.01355, equation 3.

    Args:
        points: (..., 2) ``(x, y)`` inside the boxes.
        boxes: (..., 4) ``(x1, y1, x2, y2)``.

    Returns:
        (...) in [0, 1]: 1 at the center, 0 at the border.
    """
    near, far = points - boxes[..., :2], boxes[..., 2:] - points
    ratio = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far).clamp(min=1e-6)
    return ratio.prod(-1).sqrt()


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of (..., 4) boxes that broadcast; 0 if both have no area.

    torchvision's ``box_iou`` compares all pairs, and the assignment needs few of them.
    """
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=torch.finfo(shared.dtype).eps)


def mean_over_ranks(*values: Tensor) -> list[Tensor]:
    """Return scalars averaged over all processes, so that all normalize their losses equally."""
    stacked = torch.stack(values)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked = stacked / torch.distributed.get_world_size()
    return list(stacked)
