"""Accuracy on the evaluation split, by class, and the prediction on each image."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .probe import Metric, Probe, Record
from .subject import Subject, percent


class Predictions(NamedTuple):
    """Predictions on the evaluation split, in its order."""

    correct: Tensor
    """(N,) bool."""
    probability: Tensor
    """(N,) float32: probability of the label; rounded to about 0.1 %."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure top-1, top-5 and per-class accuracy."""
    logits, labels = subject.logits, subject.labels
    return {"accuracy": accuracies(logits, labels), "predictions": encode_predictions(logits, labels)}


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return accuracies in percent of (N, K) logits; None for top-5 with five classes or fewer."""
    classes = logits.shape[1]
    correct = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, correct)
    top5 = None
    if classes > 5:
        top5 = percent((logits.topk(5, 1).indices == labels[:, None]).any(1).double().mean())
    return {
        "top1": percent(correct.mean()),
        "top5": top5,
        "per_class": [
            percent(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)
        ],
    }


def encode_predictions(logits: Tensor, labels: Tensor) -> dict[str, str]:
    """Pack the prediction on each image into base64: one bit and one float16 per image.

    The float16 is the negative log-probability of the label, which does not underflow where the network
    is confidently wrong.
    """
    correct = (logits.argmax(1) == labels).numpy()
    losses = F.cross_entropy(logits.double(), labels, reduction="none").numpy()
    packed = {"correct": np.packbits(correct), "loss": losses.astype("<f2")}
    return {name: base64.b64encode(values.tobytes()).decode() for name, values in packed.items()}


def read_predictions(record: Record) -> Predictions | None:
    """Return the predictions in an evaluation; None in a record that predates them."""
    packed = record.get("predictions")
    if packed is None:
        return None
    bits = np.frombuffer(base64.b64decode(packed["correct"]), dtype=np.uint8)
    losses = np.frombuffer(base64.b64decode(packed["loss"]), dtype="<f2").astype(np.float32)
    correct = np.unpackbits(bits, count=len(losses)).astype(bool)
    return Predictions(torch.from_numpy(correct), torch.from_numpy(losses).neg().exp())


PROBE = Probe(
    name="accuracy",
    measures="top-1, top-5 and per-class accuracy on the evaluation split",
    cost="one forward pass over the evaluation split",
    run=run,
    metrics=(
        # A comparison has the accuracies of the last and the best epoch from the run's own record.
        Metric("top1", "Accuracy", ("accuracy", "top1"), compared=False),
        Metric("top5", "Top-5 accuracy", ("accuracy", "top5")),
    ),
)
