"""Do the probabilities mean what they say? Pure functions of (N, K) logits and (N,) labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15
"""Of the confidence, equally wide (Guo et al., arXiv 1706.04599, section 4)."""


class Reliability(NamedTuple):
    """Confidence against accuracy, bin by bin; empty bins hold NaN."""

    edges: Tensor
    """(bins + 1,) borders of the confidence; a bin holds its upper border."""
    confidence: Tensor
    """(bins,) mean confidence, a share."""
    accuracy: Tensor
    """(bins,) share of right answers."""
    images: Tensor
    """(bins,) how many."""


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy."""
    return float(F.cross_entropy(logits.double(), labels))


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Squared error of the probabilities, summed over the classes, mean over the images: 0 to 2."""
    probabilities = logits.double().softmax(1)
    truth = F.one_hot(labels, logits.shape[1])
    return float((probabilities - truth).square().sum(1).mean())


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Accuracy of the predictions of each confidence."""
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    # (bin / bins, (bin + 1) / bins]; a confidence of 0 can't be.
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    images = torch.bincount(place, minlength=bins)
    confidence, right = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values) / images
        for values in (confidence, right)
    )
    return Reliability(torch.linspace(0, 1, bins + 1), confidence, right, images)


def calibration_error(table: Reliability) -> float:
    """ECE: the gap between confidence and accuracy, mean over the images; a share in [0, 1]."""
    gaps = (table.confidence - table.accuracy).abs().nan_to_num()
    return float((gaps * table.images).sum() / table.images.sum())
