"""Scores of classifiers: accuracy for one label per image, average precision and F1 for several."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MultilabelAveragePrecision,
    MultilabelStatScores,
)


class SingleLabelScores(nn.Module):
    """Accuracy and loss against class indices. Sums over all processes: every image counts once.

    Args:
        classes: number of classes.
    """

    names = ("val_loss", "acc1")
    score = "acc1"
    probe_score = "acc_clean"
    """Name of the score on training images without mixing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(classes, average="micro", ignore_index=-1)
        self.loss = MeanMetric()  # over images, not over batches

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add (B, K) logits and (B,) targets; -1 is an empty place."""
        self.accuracy.update(logits, targets)
        losses = nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
        self.loss.update(losses.double(), (targets >= 0).double())

    def compute(self) -> dict[str, Tensor]:
        """Return the values of `names`, the accuracy in percent."""
        return {"val_loss": self.loss.compute().float(), "acc1": 100 * self.accuracy.compute()}

    def reset(self) -> None:
        """Forget all images."""
        self.accuracy.reset()
        self.loss.reset()


class MultiLabelScores(nn.Module):
    """Mean average precision, F1 at a probability of 0.5 and loss against multi-hot targets.

    Args:
        classes: number of classes.
    """

    names = ("val_loss", "f1_micro", "f1_macro", "map")
    score = "map"
    probe_score = "map_clean"
    """Name of the score on training images without mixing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.precision = MultilabelAveragePrecision(classes, average="none", ignore_index=-1)
        self.counts = MultilabelStatScores(classes, average="none", ignore_index=-1)
        self.loss = MeanMetric()  # over images and classes
        self.per_class = torch.full((classes,), torch.nan)
        """(K,) average precision in percent at the last `compute`; NaN for classes without an image."""

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add (B, K) logits and (B, K) targets; -1 is an empty place."""
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        self.loss.update(losses.double(), (targets >= 0).double())
        for metric in (self.precision, self.counts):
            metric.update(logits.sigmoid(), targets.long())

    def compute(self) -> dict[str, Tensor]:
        """Return the values of `names`, in percent except for the loss."""
        hits, false_alarms, _, misses, images = self.counts.compute().double().unbind(1)  # (K,) each
        wrong = false_alarms + misses
        f1 = 2 * hits / (2 * hits + wrong).clamp(min=1)
        micro = 2 * hits.sum() / (2 * hits + wrong).sum().clamp(min=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without an image, which are left out below
            precision = 100 * self.precision.compute()
        self.per_class = precision.masked_fill(images == 0, torch.nan)
        return {
            "val_loss": self.loss.compute().float(),
            "f1_micro": 100 * micro.float(),
            "f1_macro": 100 * f1.mean().float(),
            "map": self.per_class.nanmean(),
        }

    def reset(self) -> None:
        """Forget all images."""
        for metric in (self.precision, self.counts, self.loss):
            metric.reset()
