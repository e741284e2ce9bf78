"""The objects of an image for dense mixing, and what a pasted patch does to them. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .paste import shrink


class DenseTarget(NamedTuple):
    """The objects of one image, N of them; N may be 0."""

    boxes: Tensor
    """(N, 4) float32 ``(x1, y1, x2, y2)`` pixels of the image, sides above 0."""
    labels: Tensor
    """(N,) int64 class indices."""
    masks: Tensor | None = None
    """(N, H, W) bool; all images of a batch have them or none."""


def uncovered(
    target: DenseTarget, patch: Sequence[int], min_visible: float, min_side: float
) -> tuple[int, int, DenseTarget]:
    """Trim or drop the objects under a patch.

    A box is trimmed to the bounds of its visible part: box minus patch, or with masks the mask's pixels. An
    object that the patch does not touch stays as it is.

    Args:
        target: The objects of the image.
        patch: ``(x1, y1, x2, y2)`` pixels, not empty.
        min_visible: Share of an object that must show.
        min_side: Pixels; least side of the bounds of its visible part.

    Returns:
        How many objects were dropped because they show less than ``min_visible``, how many because a side
        of their visible part is below ``min_side``, and the remaining objects.
    """
    boxes, masks = target.boxes, target.masks
    x1, y1, x2, y2 = patch
    if masks is None:
        first, last = boxes[:, :2], boxes[:, 2:]
        near, far = boxes.new_tensor([x1, y1]), boxes.new_tensor([x2, y2])
        shared = (torch.minimum(last, far) - torch.maximum(first, near)).clamp(min=0)  # (N, 2)
        touched = (shared > 0).all(1)
        visible = 1 - shared.prod(1) / (last - first).prod(1)
        # Only a patch that spans the box in one dimension takes something off its ends in the other.
        from_near, to_far = near <= first, far >= last
        spans = (from_near & to_far).flip(1)
        start = torch.where(spans & from_near, torch.maximum(first, far), first)
        end = torch.where(spans & to_far, torch.minimum(last, near), last)
        trimmed = torch.cat([start, end], 1)
    else:
        under = masks[:, y1:y2, x1:x2].flatten(1).sum(1)
        touched = under > 0
        visible = 1 - under / masks.flatten(1).sum(1).clamp(min=1)
        masks = masks.clone()
        masks[:, y1:y2, x1:x2] = False
        trimmed = mask_boxes(masks).to(boxes.dtype)
    hidden = touched & ((visible < min_visible) | (visible <= 0))
    small = touched & ~hidden & ~_sides_from(trimmed, min_side)
    keep = ~(hidden | small)
    left = DenseTarget(
        torch.where(touched[:, None], trimmed, boxes)[keep],
        target.labels[keep],
        None if masks is None else masks[keep],
    )
    return int(hidden.sum()), int(small.sum()), left


def shrunk_into(
    target: DenseTarget,
    source_size: tuple[int, int],
    patch: Sequence[int],
    size: tuple[int, int],
    min_side: float,
) -> tuple[int, DenseTarget]:
    """Shrink the objects of an image of ``source_size`` into a patch of one of ``size``, both (H, W).

    Boxes are scaled; with masks they are the bounds of the shrunken mask.

    Returns:
        How many were dropped (a side below ``min_side``, or no pixel of the mask left), and the others.
    """
    x1, y1, x2, y2 = patch
    scale = ((x2 - x1) / source_size[1], (y2 - y1) / source_size[0])
    boxes = target.boxes * target.boxes.new_tensor(scale * 2) + target.boxes.new_tensor([x1, y1, x1, y1])
    # Rounding must not carry a box over the patch's edge.
    boxes = boxes.maximum(boxes.new_tensor([x1, y1, x1, y1])).minimum(boxes.new_tensor([x2, y2, x2, y2]))
    labels, masks = target.labels, target.masks
    if masks is None:
        keep = _sides_from(boxes, min_side)
        return int((~keep).sum()), DenseTarget(boxes[keep], labels[keep])
    small = shrink(masks[None], (y2 - y1, x2 - x1), "nearest")[0]
    masks = masks.new_zeros(len(small), *size)
    masks[:, y1:y2, x1:x2] = small
    # A thin part may be gone from the shrunken mask, so the box is taken from the mask.
    boxes = mask_boxes(masks).to(boxes.dtype)
    keep = small.flatten(1).any(1) & _sides_from(boxes, min_side)
    return int((~keep).sum()), DenseTarget(boxes[keep], labels[keep], masks[keep])


def mask_boxes(masks: Tensor) -> Tensor:
    """Return (N, 4) int64, the bounds ``(x1, y1, x2, y2)`` of (N, H, W) bool masks; all of it if empty."""
    edges = []
    for along in (masks.any(1), masks.any(2)):  # (N, W), (N, H)
        seen = along.to(torch.uint8)  # argmax: the first of the largest
        edges.append((seen.argmax(1), seen.shape[1] - seen.flip(1).argmax(1)))
    return torch.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], 1)


def _sides_from(boxes: Tensor, min_side: float) -> Tensor:
    """Return (N,) bool: both sides of the box are at least this long."""
    return (boxes[:, 2:] - boxes[:, :2] >= min_side).all(1)
