"""Calibration: how well predicted probabilities match the frequency of correct answers.

All functions take (N, K) logits and (N,) labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recursivemix.data.atomic_write import finite

from .probe import Curve, Metric, Point, Probe, Record
from .subject import Subject

BINS = 15
"""Number of confidence bins of equal width (Guo et al., arXiv 1706.04599, section 4)."""


class Reliability(NamedTuple):
    """Confidence and accuracy of each bin; NaN in empty bins."""

    edges: Tensor
    """(bins + 1,) bin edges; a bin includes its upper edge."""
    confidence: Tensor
    """(bins,) mean confidence in [0, 1]."""
    accuracy: Tensor
    """(bins,) share of correct answers in [0, 1]."""
    images: Tensor
    """(bins,) number of images."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure negative log-likelihood, Brier score and calibration error."""
    logits, labels = subject.logits, subject.labels
    table = reliability(logits, labels)
    return {
        "nll": negative_log_likelihood(logits, labels),
        "brier": brier_score(logits, labels),
        "ece": 100 * calibration_error(table),
        "reliability": {
            "edges": table.edges.tolist(),
            "confidence": finite(table.confidence.tolist()),
            "accuracy": finite([100 * share for share in table.accuracy.tolist()]),
            "count": table.images.tolist(),
        },
    }


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy."""
    return float(F.cross_entropy(logits.double(), labels))


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Return the squared error of the probabilities, summed over classes, averaged over images: 0 to 2."""
    probabilities = logits.double().softmax(1)
    truth = F.one_hot(labels, logits.shape[1])
    return float((probabilities - truth).square().sum(1).mean())


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Bin the predictions by confidence."""
    confidence, predicted = logits.double().softmax(1).max(1)
    correct = (predicted == labels).double()
    # Bin b is (b / bins, (b + 1) / bins]; a confidence is never 0.
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    images = torch.bincount(index, minlength=bins)
    confidence, correct = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, index, values) / images
        for values in (confidence, correct)
    )
    return Reliability(torch.linspace(0, 1, bins + 1), confidence, correct, images)


def calibration_error(table: Reliability) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy, 0 to 1."""
    gaps = (table.confidence - table.accuracy).abs().nan_to_num()
    return float((gaps * table.images).sum() / table.images.sum())


def reliability_curve(record: Record) -> list[Point]:
    """Return accuracy by mean confidence, in percent, without bins that are empty or not finite."""
    table = record.get("reliability")
    if not table:
        return []
    edges = table["edges"]
    return [
        Point(
            f"{100 * edges[b]:.0f} to {100 * edges[b + 1]:.0f}",
            100 * table["confidence"][b],
            table["accuracy"][b],
            count,
        )
        for b, count in enumerate(table["count"])
        if count and table["confidence"][b] is not None
    ]


PROBE = Probe(
    name="calibration",
    measures="negative log-likelihood, Brier score, calibration error and reliability curve",
    cost="none beyond that of accuracy",
    run=run,
    metrics=(
        Metric("nll", "Negative log-likelihood", ("nll",), "", False, (0, None), drawn=True, short="NLL"),
        Metric("brier", "Brier score", ("brier",), "", False, (0, 2)),
        Metric("ece", "Calibration error (ECE)", ("ece",), "%", False, drawn=True, short="ECE, %"),
    ),
    curves=(
        Curve(
            "Reliability",
            "confidence, %",
            "Predictions binned by confidence, all seeds pooled. Below the dotted line: overconfident; "
            "above: underconfident.",
            reliability_curve,
            pooled=True,
        ),
    ),
    section="Calibration",
)
