"""Accuracy on the evaluation split, by class, and the prediction on each image.

Of images with several labels, the average precision and F1 instead.
"""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recursivemix.data.atomic_write import finite
from recursivemix.tasks.classification_metrics import MultiLabelScores

from .probe import Metric, Probe, Record
from .subject import Subject, percent


class Predictions(NamedTuple):
    """Predictions on the evaluation split, in its order."""

    correct: Tensor
    """(N,) bool."""
    probability: Tensor
    """(N,) float32: probability of the label; rounded to about 0.1 %."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure top-1, top-5 and per-class accuracy; of several labels, average precision and F1."""
    logits, labels = subject.logits, subject.labels
    if labels.ndim == 2:
        return {"labels": label_scores(logits, labels)}
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


def label_scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return average precision and F1 in percent of (N, K) logits against (N, K) multi-hot labels.

    The average precision of a class without an image is None, and the mean leaves it out.
    """
    scores = MultiLabelScores(logits.shape[1])
    scores.update(logits, labels)
    values = {name: float(value) for name, value in scores.compute().items()}
    per_class = finite(scores.per_class.tolist())
    return {name: values[name] for name in ("map", "f1_micro", "f1_macro")} | {"per_class": per_class}


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
    several_labels=True,
    metrics=(
        # A comparison has the accuracies of the last and the best epoch from the run's own record.
        Metric("top1", "Accuracy", ("accuracy", "top1"), compared=False),
        Metric("top5", "Top-5 accuracy", ("accuracy", "top5")),
        Metric("map", "Mean average precision", ("labels", "map"), compared=False),
        Metric("f1_micro", "F1 over all labels", ("labels", "f1_micro"), compared=False),
        Metric("f1_macro", "Mean F1 of the classes", ("labels", "f1_macro"), compared=False),
    ),
)
