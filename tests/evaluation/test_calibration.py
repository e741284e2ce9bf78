"""Accuracy and calibration against loops, torchmetrics, and networks whose answers are known."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from recursivemix.evaluation.accuracy import accuracies, encode_predictions, read_predictions
from recursivemix.evaluation.calibration import (
    BINS,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOGITS = 3 * torch.randn(400, 7, generator=seeded(1))
LABELS = torch.randint(7, (400,), generator=seeded(2))


def test_likelihood_and_brier_in_loops():
    nll, brier = 0.0, 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        powers = [math.exp(z) for z in row]
        probabilities = [p / sum(powers) for p in powers]
        nll -= math.log(probabilities[label]) / len(LABELS)
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(probabilities)) / len(LABELS)
    assert negative_log_likelihood(LOGITS, LABELS) == pytest.approx(nll)
    assert brier_score(LOGITS, LABELS) == pytest.approx(brier)


def test_the_calibration_error_is_torchmetrics_and_a_loops():
    table = reliability(LOGITS, LABELS)
    reference = MulticlassCalibrationError(7, n_bins=BINS, norm="l1")
    assert calibration_error(table) == pytest.approx(float(reference(LOGITS.softmax(1), LABELS)), abs=1e-6)
    confidence, predicted = LOGITS.double().softmax(1).max(1)
    for b in range(BINS):
        own = [i for i, c in enumerate(confidence.tolist()) if b / BINS < c <= (b + 1) / BINS]
        assert table.images[b] == len(own)
        if own:
            assert table.accuracy[b].item() == pytest.approx(
                sum(int(predicted[i] == LABELS[i]) for i in own) / len(own)
            )
            assert table.confidence[b].item() == pytest.approx(
                sum(float(confidence[i]) for i in own) / len(own)
            )
        else:
            assert math.isnan(table.accuracy[b])


def test_a_perfect_and_an_ignorant_network():
    sure = 100 * nn.functional.one_hot(LABELS, 7).float()
    assert negative_log_likelihood(sure, LABELS) == pytest.approx(0, abs=1e-6)
    assert calibration_error(reliability(sure, LABELS)) == pytest.approx(0, abs=1e-6)
    none = torch.zeros(400, 7)
    right = (LABELS == 0).double().mean().item()
    assert calibration_error(reliability(none, LABELS)) == pytest.approx(abs(1 / 7 - right), abs=1e-6)
    assert brier_score(none, LABELS) == pytest.approx(6 / 7)


def test_accuracies_of_predictions():
    found = accuracies(LOGITS, LABELS)
    assert found["top1"] == pytest.approx(100 * (LOGITS.argmax(1) == LABELS).float().mean().item())
    hits = [LABELS[i] in LOGITS[i].argsort(descending=True)[:5] for i in range(400)]
    assert found["top5"] == pytest.approx(100 * sum(hits) / 400)
    own = (LABELS == 3).nonzero()[:, 0]
    assert found["per_class"][3] == pytest.approx(100 * (LOGITS[own].argmax(1) == 3).float().mean().item())
    few = accuracies(LOGITS[:, :4], LABELS.clamp(max=2))
    assert few["top5"] is None
    assert few["per_class"][3] is None  # a class without an image


@pytest.mark.parametrize(
    ("classes", "bins", "index"), [(3, 15, 4), (5, 15, 2), (15, 15, 0), (2, 4, 1), (2, 10, 4)]
)
def test_a_confidence_on_a_bin_edge_belongs_to_the_bin_below(classes, bins, index):
    """Uniform probabilities: the confidence 1 / classes is exactly the upper edge of a bin."""
    table = reliability(torch.zeros(6, classes), torch.tensor([0, 0, 0, 0, 1, 1]), bins)
    assert table.edges[index + 1] == pytest.approx(1 / classes)
    assert table.images.tolist() == [6 * (b == index) for b in range(bins)]
    assert table.accuracy[index] == pytest.approx(4 / 6)


def test_certainty_belongs_to_the_last_bin():
    sure = torch.tensor([[0.0, 200.0], [200.0, 0.0]])
    assert reliability(sure, torch.tensor([1, 1])).images.tolist() == [0] * (BINS - 1) + [2]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 400])
def test_the_prediction_on_each_image_is_kept(count):
    logits, labels = LOGITS[:count], LABELS[:count]
    packed = encode_predictions(logits, labels)
    kept = read_predictions({"predictions": packed})
    assert kept is not None
    assert kept.correct.tolist() == [
        int(row.argmax()) == int(k) for row, k in zip(logits, labels, strict=True)
    ]
    expected = logits.softmax(1)[torch.arange(count), labels]
    assert torch.allclose(kept.probability, expected, rtol=5e-3, atol=1e-6)
    assert sum(map(len, packed.values())) <= 3 * count + 16
    assert read_predictions({}) is None  # a record of an earlier version


def test_a_hopeless_prediction_keeps_a_finite_loss():
    kept = read_predictions(
        {"predictions": encode_predictions(torch.tensor([[0.0, 80.0]]), torch.tensor([0]))}
    )
    assert kept is not None
    assert 0 < kept.probability.item() < 1e-30
