"""ATSS: a one-stage detector with centerness."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from recursivemix.tasks.backbone import LoadedBackbone

from .create import DetectorOptions
from .losses import centerness, mean_over_ranks
from .one_stage import Matches, OneStageDetector, initialize

CODE_SCALE = (0.1, 0.1, 0.2, 0.2)
"""Scale of the box code: shifts in sides of the anchor, and logarithms of the ratio of sides."""
MAX_GROWTH = math.log(1000 / 16)
"""Largest logarithm of a side's ratio: no object is more than 62 times as large as its anchor."""


class ATSS(OneStageDetector):
    """ATSS (Zhang et al., arXiv 1912.02424): one anchor per location, scores weighted by a centerness.

    Trained with focal loss, GIoU loss with weight 2, and cross-entropy of the centerness.

    Args:
        loaded, num_classes, options: see `OneStageDetector`.
    """

    box_outputs = 4

    def __init__(self, loaded: LoadedBackbone, num_classes: int, options: DetectorOptions) -> None:
        super().__init__(loaded, num_classes, options)
        self.centerness = nn.Conv2d(options.channels, 1, 3, padding=1)
        initialize(self.centerness)

    def extra_outputs(self, features: Tensor) -> dict[str, Tensor]:
        return {"centerness": self.centerness(features)}

    def losses(self, outputs: dict[str, Tensor], matches: Matches) -> dict[str, Tensor]:
        image, location = matches.image, matches.location
        targets = torch.zeros_like(outputs["classes"])
        targets[image, location, matches.labels] = 1
        boxes = self.decode(outputs["boxes"][image, location], matches.anchors, matches.strides)
        central = centerness(matches.points, matches.boxes)
        logits = outputs["centerness"][image, location, 0]
        count, weight = mean_over_ranks(central.new_tensor(float(len(image))), central.sum())
        count = count.clamp(min=1)
        giou = (generalized_box_iou_loss(boxes, matches.boxes) * central).sum()
        return {
            "classes": sigmoid_focal_loss(outputs["classes"], targets, reduction="sum") / count,
            "boxes": 2 * giou / weight.clamp(min=1e-6),
            "centerness": binary_cross_entropy_with_logits(logits, central, reduction="sum") / count,
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        return outputs["classes"].sigmoid() * outputs["centerness"].sigmoid()

    def decode(self, code: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
        scale = code.new_tensor(CODE_SCALE)
        sides = anchors[:, 2:] - anchors[:, :2]
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + code[:, :2] * scale[:2] * sides
        half = sides * (code[:, 2:] * scale[2:]).clamp(max=MAX_GROWTH).exp() / 2
        return torch.cat([centers - half, centers + half], 1)
