"""The two terms of the loss, as pure functions. All of them compute in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) cross-entropy of (B, K) logits against (B, K) soft targets."""
    return -(targets * F.log_softmax(logits, dim=-1, dtype=torch.float32)).sum(-1)


def soft_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) binary cross-entropy, averaged over the K classes, for multi-label targets."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return losses.mean(-1)


def smoothed(targets: Tensor, label_smoothing: float) -> Tensor:
    """(B, K) targets with the share ``label_smoothing`` spread over all K classes, as torch and timm do."""
    if label_smoothing == 0:
        return targets
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[-1]


def consistency(sample_losses: Tensor, lam: Tensor) -> Tensor:
    """Batch mean of ``(1 - lam) * sample_losses``, both (B,); paper.md 1.2, step 6.

    The samples' losses compare the region head with the previous, detached prediction, so their
    gradient is that of the KL divergence of the paper's figure.
    """
    return ((1 - lam) * sample_losses).mean()
