"""Class labels as soft targets, and labels fused by weight. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .draw import Number


def soft_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return (B, K) float32 targets for (B,) class indices or (B, K) soft labels."""
    if labels.dim() == 2:
        return labels.to(torch.float32)
    one_hot = torch.zeros(labels.shape[0], num_classes, dtype=torch.float32, device=labels.device)
    return one_hot.scatter_(1, labels.long()[:, None], 1.0)


def fuse_labels(labels: Tensor, num_classes: int, lam: Number, other: Tensor) -> Tensor:
    """Return ``lam * labels + (1 - lam) * other`` as (B, K) float32.

    Args:
        labels: (B,) class indices or (B, K) soft labels.
        num_classes: K.
        lam: Weight of the labels, one number or (B,) float32.
        other: (B, K) float32.
    """
    if labels.dim() == 1 and isinstance(lam, float):
        return (other * (1 - lam)).scatter_(1, labels.long()[:, None], lam, reduce="add")
    return _weighted_sum(lam, soft_labels(labels, num_classes), other)


def fuse_partners(labels: Tensor, num_classes: int, lam: Number, partners: Tensor) -> Tensor:
    """Fuse each label with that of its partner, as `fuse_labels` does.

    Args:
        partners: (B,) int64, index into the batch.
    """
    if labels.dim() == 1 and isinstance(lam, float):
        columns = labels.long()[:, None]
        fused = torch.zeros(labels.shape[0], num_classes, dtype=torch.float32, device=labels.device)
        return fused.scatter_(1, columns, lam).scatter_(
            1, columns.index_select(0, partners), 1 - lam, reduce="add"
        )
    targets = soft_labels(labels, num_classes)
    return _weighted_sum(lam, targets, targets.index_select(0, partners))


def lam_rows(lam: Number, batch_size: int, device: torch.device) -> Tensor:
    """Return the weight of the current label as (B,) float32."""
    if isinstance(lam, float):
        return torch.full((batch_size,), lam, dtype=torch.float32, device=device)
    return lam.to(device, non_blocking=True).expand(batch_size).contiguous()


def _weighted_sum(lam: Number, targets: Tensor, other: Tensor) -> Tensor:
    """Return ``lam * targets + (1 - lam) * other``, rounded as in the form for class indices."""
    if isinstance(lam, Tensor):
        column = lam.to(targets.device, non_blocking=True)[:, None]
        return (other * (1 - column)).addcmul_(targets, column)
    return (other * (1 - lam)).add_(targets, alpha=lam)
