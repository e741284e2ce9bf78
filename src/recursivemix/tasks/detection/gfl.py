"""GFL: a one-stage detector with generalized focal loss and the assignment of ATSS."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from .losses import distribution_focal_loss, iou, mean_over_ranks, quality_focal_loss
from .one_stage import Matches, OneStageDetector

BINS = 16
"""Largest distance from a location to a side of its box, in strides."""


class GFL(OneStageDetector):
    """GFL (Li et al., arXiv 2006.04388): ATSS with scores that learn the IoU of the box.

    The distance to each side of the box is a distribution over bins.

    Args:
        loaded, num_classes, options: see `OneStageDetector`.
    """

    box_outputs = 4 * (BINS + 1)

    def losses(self, outputs: dict[str, Tensor], matches: Matches) -> dict[str, Tensor]:
        image, location = matches.image, matches.location
        code = outputs["boxes"][image, location]
        boxes = self.decode(code, matches.anchors, matches.strides)
        quality = torch.zeros_like(outputs["classes"])
        quality[image, location, matches.labels] = iou(boxes.detach(), matches.boxes)
        # A box is weighted by the highest class score at its location.
        confidence = outputs["classes"].detach().sigmoid()[image, location].amax(1)
        sign = code.new_tensor([1.0, 1.0, -1.0, -1.0])
        distances = (matches.points.repeat(1, 2) - matches.boxes) * sign / matches.strides[:, None]
        bins = distribution_focal_loss(code.view(-1, 4, BINS + 1), distances.clamp(0, BINS - 0.1))
        count, weight = mean_over_ranks(code.new_tensor(float(len(image))), confidence.sum())
        weight = weight.clamp(min=1e-6)
        giou = (generalized_box_iou_loss(boxes, matches.boxes) * confidence).sum()
        return {
            "classes": quality_focal_loss(outputs["classes"], quality).sum() / count.clamp(min=1),
            "boxes": 2 * giou / weight,
            "distances": 0.25 * (bins.mean(1) * confidence).sum() / weight,
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs["classes"].sigmoid()

    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        bins = torch.arange(BINS + 1, dtype=code.dtype, device=code.device)
        distances = (code.view(-1, 4, BINS + 1).softmax(2) @ bins) * strides[:, None]  # (P, 4)
        points = (anchors[:, :2] + anchors[:, 2:]) / 2
        return torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)
