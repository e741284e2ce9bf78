"""Weights of the classes in the loss, for data of unequal classes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .settings import BALANCED


def class_weights(source: str, labels: Tensor, classes: Sequence[str]) -> list[float]:
    """Return one weight for each class.

    Args:
        source: "balanced", or a JSON file with a number for each class name.
        labels: (N,) int64 class indices of the training images, or (N, K) multi-hot.
        classes: names of the K classes.

    Raises:
        ValueError: the file cannot be used, or a class has no training image.
    """
    if source == BALANCED:
        return balanced_weights(labels, classes)
    try:
        values: Any = json.loads(Path(source).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--class-weights must be balanced or a JSON file, got {source}: {_reason(error)}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"--class-weights {source} must hold an object with a number for each class name")
    wrong = sorted(values.keys() ^ set(classes))
    if wrong:
        what = "lacks the class" if wrong[0] in classes else "names a class that the data lack,"
        raise ValueError(f"--class-weights {source} {what} {wrong[0]!r}")
    weights = [values[name] for name in classes]
    for name, weight in zip(classes, weights, strict=True):
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            raise ValueError(
                f"--class-weights {source}: the weight of {name!r} must be a number > 0, got {weight!r}"
            )
    return [float(weight) for weight in weights]


def balanced_weights(labels: Tensor, classes: Sequence[str]) -> list[float]:
    """Return N / (K n) for a class of n images, as scikit-learn does; the mean over N images is 1."""
    if labels.ndim == 2:
        counts = labels.sum(0, dtype=torch.long)
        total = int(counts.sum())
    else:
        counts = torch.bincount(labels, minlength=len(classes))
        total = len(labels)
    empty = (counts == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"--class-weights balanced needs training images of every class; {classes[empty[0]]!r} has none"
        )
    return [total / (len(classes) * count) for count in counts.tolist()]


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
