"""What a dense detector is trained by: pure functions of matching shapes, in float32, not reduced."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, Lin et al., arXiv 1708.02002, equation 5.

    Args:
        logits: of any shape.
        targets: of that shape, 0 or 1.

    Returns:
        That shape.
    """
    plain = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    missed = p + targets * (1 - 2 * p)  # 1 - p where the target is 1, p where it is 0
    weight = (1 - alpha) + targets * (2 * alpha - 1)
    return weight * missed.pow(gamma) * plain


def quality_focal_loss(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Focal loss for targets between 0 and 1, Li et al., arXiv 2006.04388, equation 4.

    Args:
        logits: of any shape.
        quality: of that shape, in [0, 1].
    """
    distance = (quality - logits.sigmoid()).abs().pow(beta)
    return distance * binary_cross_entropy_with_logits(logits, quality, reduction="none")


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy against the two bins around a distance, arXiv 2006.04388, equation 6.

    Args:
        logits: (..., R + 1) of the bins 0..R.
        distance: (...) in [0, R), in bins.
    """
    left = distance.floor().long()
    right_share = distance - left
    bins = logits.shape[-1]
    soft = (
        one_hot(left, bins) * (1 - right_share)[..., None]
        + one_hot(left + 1, bins) * right_share[..., None]
    )
    return cross_entropy(logits.flatten(0, -2), soft.flatten(0, -2), reduction="none").view_as(distance)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """One minus the generalised IoU, Rezatofighi et al., arXiv 1902.09630, equation 2.

    Args:
        boxes, targets: (..., 4) ``(x1, y1, x2, y2)``; boxes turned inside out count as empty.

    Returns:
        (...) in [0, 2]; finite for boxes of no area too.
    """
    eps = torch.finfo(boxes.dtype).eps
    sides = torch.minimum(boxes[..., 2:], targets[..., 2:]) - torch.maximum(
        boxes[..., :2], targets[..., :2]
    )
    shared = sides.clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (boxes, targets)]
    union = areas[0] + areas[1] - shared
    hull_sides = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(
        boxes[..., :2], targets[..., :2]
    )
    hull = hull_sides.clamp(min=0).prod(-1)
    iou = shared / union.clamp(min=eps)
    return 1 - iou + (hull - union) / hull.clamp(min=eps)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """How central a point lies in a box, Tian et al., arXiv 1904.01355, equation 3.

    Args:
        points: (..., 2) ``(x, y)`` inside the boxes.
        boxes: (..., 4).

    Returns:
        (...) in [0, 1]: 1 in the middle, 0 at the border.
    """
    near, far = points - boxes[..., :2], boxes[..., 2:] - points
    ratio = torch.minimum(near, far).clamp(min=0) / torch.maximum(near, far).clamp(min=1e-6)
    return ratio.prod(-1).sqrt()


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of (..., 4) boxes that broadcast; 0 where both have no area."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=torch.finfo(shared.dtype).eps)
