"""The terms of the loss, as pure functions. All of them compute in float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the (B,) cross-entropy of (B, K) logits against (B, K) soft targets."""
    return -(targets * F.log_softmax(logits, dim=-1, dtype=torch.float32)).sum(-1)


def soft_binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (B,) binary cross-entropy, averaged over the K classes, for multi-label targets.

    Args:
        logits: (B, K).
        targets: (B, K) in [0, 1].
        weights: (K,) of the classes in the average; None: all the same.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return losses.mean(-1) if weights is None else losses @ (weights / weights.sum())


def mean_weighted_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float
) -> Tensor:
    """Return the mean cross-entropy with a weight for each class, a scalar.

    Every sample counts by the weights of its classes, in the shares of its target. For targets of one class
    each this is ``torch.nn.functional.cross_entropy`` with class indices.

    Args:
        logits: (B, K).
        targets: (B, K), before smoothing.
        weights: (K,) of the classes.
        label_smoothing: see `smoothed`.
    """
    losses = soft_cross_entropy(logits, smoothed(targets, label_smoothing) * weights)
    return losses.sum() / (targets @ weights).sum()


def smoothed(targets: Tensor, label_smoothing: float) -> Tensor:
    """Spread the share ``label_smoothing`` of (B, K) targets over all K classes, as torch and timm do."""
    if label_smoothing == 0:
        return targets
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[-1]


def consistency(sample_losses: Tensor, lam: Tensor) -> Tensor:
    """Return the batch mean of ``(1 - lam) * sample_losses``, both (B,); arXiv 2203.06844.

    The samples' losses compare the region head with the previous, detached prediction. The paper draws a
    KL divergence there and its code takes the cross-entropy, which has the same gradient.
    """
    return ((1 - lam) * sample_losses).mean()


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """Return (B, K) float32 predictions: softmax for the loss "ce", sigmoid for "bce"."""
    return logits.float().softmax(-1) if loss == "ce" else logits.float().sigmoid()


def squared_difference(probs: Tensor, targets: Tensor) -> Tensor:
    """Return the (B,) squared differences of (B, K) predictions, averaged over the K classes."""
    return (probs - targets).square().mean(-1)


def ramp_up(epoch: int, length: float) -> float:
    """Return ``exp(-5 (1 - t)^2)``, t from 0 to 1 over the first ``length`` epochs (arXiv 1610.02242)."""
    t = min(epoch / length, 1.0) if length > 0 else 1.0
    return math.exp(-5 * (1 - t) ** 2)
