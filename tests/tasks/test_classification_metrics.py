"""Scores of classifiers against scikit-learn, with empty places that must not count."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from recursivemix.tasks.classification_metrics import MultiLabelScores, SingleLabelScores


def batches(logits, targets, empty):
    """Batches of 7, filled up with empty places, which hold any logits."""
    for i in range(0, len(logits), 7):
        places = 7 - len(logits[i : i + 7])
        yield (
            torch.cat([logits[i : i + 7], torch.full((places, logits.shape[1]), 50.0)]),
            torch.cat([targets[i : i + 7], empty.expand(places, *empty.shape)]),
        )


def test_accuracy_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 5, generator=generator), torch.randint(5, (40,), generator=generator)
    scores = SingleLabelScores(5)
    for part, targets in batches(logits, labels, torch.tensor(-1)):
        scores.update(part, targets)
    values = scores.compute()
    assert list(values) == ["val_loss", "acc1"]
    assert values["acc1"].item() == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
    assert values["val_loss"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6
    )


def test_precision_and_f1_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 5, generator=generator)
    targets = (torch.rand(40, 5, generator=generator) < torch.tensor([0.5, 0.3, 0.1, 0.7, 0.0])).float()
    scores = MultiLabelScores(5)
    for part, labels in batches(logits, targets, torch.full((5,), -1.0)):
        scores.update(part, labels)
    values = {name: value.item() for name, value in scores.compute().items()}
    assert tuple(values) == MultiLabelScores.names
    expected = [100 * average_precision_score(targets[:, k], logits[:, k]) for k in range(4)]
    assert scores.per_class[:4].tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.isnan(scores.per_class[4])  # no image has it
    assert values["map"] == pytest.approx(np.mean(expected), rel=1e-5)
    for average in ("micro", "macro"):
        f1 = f1_score(targets, logits > 0, average=average, zero_division=0)
        assert values[f"f1_{average}"] == pytest.approx(100 * f1, rel=1e-5)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert values["val_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_scores_can_be_reset():
    scores = MultiLabelScores(2)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores.update(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]), targets)
    assert scores.compute()["map"] == 100
    scores.reset()
    scores.update(torch.tensor([[-9.0, 9.0], [9.0, -9.0]]), targets)
    assert scores.compute()["map"] == 50
    assert scores.compute()["f1_micro"] == 0
