"""Overlap of predicted and annotated regions: mIoU, mAcc and aAcc."""

from __future__ import annotations

from typing import Any

from torchmetrics.classification import MulticlassConfusionMatrix

from recursivemix.data.annotated import IGNORE


class RegionOverlap(MulticlassConfusionMatrix):
    """Count pixels over a whole split and over all processes; `IGNORE` pixels are left out.

    ``update`` takes predicted classes and label maps, both (..., H, W).

    Args:
        num_classes: number of classes K.
    """

    def __init__(self, num_classes: int) -> None:
        # Validation takes as long as counting, and the readers have checked the label maps.
        super().__init__(num_classes, ignore_index=IGNORE, validate_args=False)

    def compute(self) -> dict[str, Any]:  # type: ignore[override]  # the scores instead of the matrix
        """Return ``miou``, ``macc`` and ``aacc`` in percent, and ``iou`` (K,) of every class.

        The IoU of a class that is neither annotated nor predicted is NaN and not part of the mean; the same
        holds for the accuracy of a class that is not annotated.
        """
        confusion = super().compute().double()  # (K, K): annotated, predicted
        correct, annotated, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        iou = 100 * correct / (annotated + predicted - correct)
        return {
            "miou": float(iou.nanmean()),
            "macc": float((100 * correct / annotated).nanmean()),
            "aacc": float(100 * correct.sum() / annotated.sum()),
            "iou": iou,
        }
