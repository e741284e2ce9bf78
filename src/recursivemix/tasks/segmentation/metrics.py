"""How well predicted regions overlap annotated ones: mIoU, mAcc, aAcc."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from recursivemix.data.annotated import IGNORE


class RegionOverlap(Metric):
    """Counts of pixels over a whole split, of all processes together.

    Args:
        num_classes: K.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, num_classes, dtype=torch.long)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label_maps: Tensor) -> None:
        """Count one image or several.

        Args:
            predicted: (..., H, W) classes in 0..K-1.
            label_maps: (..., H, W) classes; pixels of `IGNORE` are not counted.
        """
        known = label_maps != IGNORE
        truth, found = label_maps[known].long(), predicted[known].long()
        counts = torch.bincount(truth * self.num_classes + found, minlength=self.num_classes**2)
        self.confusion += counts.view(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, Any]:
        """``miou``, ``macc`` and ``aacc`` in percent, and ``iou`` (K,) of every class.

        A class that is neither annotated nor predicted has no IoU (NaN) and is left out of the means.
        """
        confusion = self.confusion.double()
        right, truth, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        iou = 100 * right / (truth + found - right)
        accuracy = 100 * right / truth
        return {
            "miou": float(iou.nanmean()),
            "macc": float(accuracy.nanmean()),
            "aacc": float(100 * right.sum() / truth.sum()),
            "iou": iou,
        }
