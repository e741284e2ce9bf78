"""What a checkpoint is worth: each question against a slow twin, an invariant, or a network that knows."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from recursivemix.evaluation.activation import activation_maps, deciding_map
from recursivemix.evaluation.calibration import (
    BINS,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
)
from recursivemix.evaluation.corruptions import SEVERITIES, corrupted
from recursivemix.evaluation.evaluate import evaluate_checkpoint, of_predictions
from recursivemix.evaluation.localisation import pointing
from recursivemix.evaluation.multiple import found_in_top4, four_in_one
from recursivemix.evaluation.occlusion import occluded
from recursivemix.evaluation.scale import on_other_ground, shrunk


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOGITS = 3 * torch.randn(400, 7, generator=seeded(1))
LABELS = torch.randint(7, (400,), generator=seeded(2))


# -- calibration ------------------------------------------------------------------------------------


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
    found = of_predictions(LOGITS, LABELS)["accuracy"]
    assert found["top1"] == pytest.approx(100 * (LOGITS.argmax(1) == LABELS).float().mean().item())
    hits = [LABELS[i] in LOGITS[i].argsort(descending=True)[:5] for i in range(400)]
    assert found["top5"] == pytest.approx(100 * sum(hits) / 400)
    own = (LABELS == 3).nonzero()[:, 0]
    assert found["per_class"][3] == pytest.approx(100 * (LOGITS[own].argmax(1) == 3).float().mean().item())
    few = of_predictions(LOGITS[:, :4], LABELS.clamp(max=2))["accuracy"]
    assert few["top5"] is None
    assert few["per_class"][3] is None  # a class without an image


# -- disturbed images -------------------------------------------------------------------------------


def photos(count: int = 6, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """Smooth pictures with some detail."""
    coarse = torch.rand(count, 3, 6, 6, generator=seeded(3))
    large = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0.1, 0.9)
    return (255 * large).round().byte()


@pytest.mark.parametrize("kind", SEVERITIES)
def test_corruptions_grow_and_repeat(kind):
    images = photos()
    before = images.clone()
    distances = []
    for severity in range(1, 6):
        result = corrupted(images, kind, severity, seeded())
        assert result.dtype == torch.uint8
        assert result.shape == images.shape
        assert torch.equal(result, corrupted(images, kind, severity, seeded()))
        distances.append((result.float() - images.float()).square().mean().item())
    assert torch.equal(images, before)
    assert distances[0] > 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_corruptions_take_any_size(kind):
    for size in ((1, 1), (2, 5), (8, 8), (33, 7)):
        images = torch.randint(256, (2, 3, *size), generator=seeded(), dtype=torch.uint8)
        assert corrupted(images, kind, 5, seeded()).shape == images.shape


def test_corruptions_by_the_book():
    images = photos()
    bright = corrupted(images, "brightness", 3, seeded())
    assert torch.equal(bright, (images + 0.3 * 255).round().clamp(max=255).byte())
    flat = corrupted(images, "contrast", 5, seeded()).float()
    for before, after in zip(images.float(), flat, strict=True):
        assert after.mean() == pytest.approx(before.mean().item(), abs=0.5)
        assert after.std() == pytest.approx(0.12 * before.std().item(), rel=0.05)
    blocks = corrupted(
        torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).repeat(1, 3, 1, 1), "pixelate", 3, seeded()
    )
    assert blocks[0, 0].tolist() == [[2, 2, 4, 4], [2, 2, 4, 4], [10, 10, 12, 12], [10, 10, 12, 12]]
    with pytest.raises(ValueError, match="severity 1 to 5, got 'fog' at 2"):
        corrupted(images, "fog", 2, seeded())


def test_occlusion_covers_its_share_with_the_colour():
    images = torch.full((50, 3, 20, 30), 200, dtype=torch.uint8)
    for share in (0.0, 0.1, 0.25, 0.5, 1.0):
        result = occluded(images, share, (0.5, 0.2, 0.0), seeded())
        covered = (result != 200).any(1)
        h, w = round(share**0.5 * 20), round(share**0.5 * 30)
        assert (covered.sum((1, 2)) == h * w).all()
        if h * w:
            assert result.permute(0, 2, 3, 1)[covered].unique(dim=0).tolist() == [[128, 51, 0]]
    places = {
        tuple(c.nonzero()[0].tolist()) for c in (occluded(images, 0.25, (0, 0, 0), seeded()) == 0).any(1)
    }
    assert len(places) > 30


def test_scale_shrinks_onto_another_image():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 16, 12).contiguous() * 20
    assert torch.equal(on_other_ground(images, 1.0, seeded()), images)
    result = on_other_ground(images, 0.5, seeded())
    for i in range(10):
        assert (result[i, 0] == 20 * i).sum() == 8 * 6
        assert (result[i, 0] == 20 * ((i + 5) % 10)).sum() == 16 * 12 - 8 * 6
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        on_other_ground(images, 0.0, seeded())


def test_four_in_one_shows_four_classes_in_their_quarters():
    labels = torch.arange(6).repeat_interleave(5)
    images = (30 * labels).byte().view(-1, 1, 1, 1).expand(-1, 3, 9, 14).contiguous()
    four = four_in_one(images, labels, 20, seeded())
    assert four.labels.shape == (20, 4)
    for picture, own in zip(four.images, four.labels.tolist(), strict=True):
        assert len(set(own)) == 4
        for (x1, y1, x2, y2), label in zip(four.quarters.tolist(), own, strict=True):
            assert (x2 - x1, y2 - y1) == (7, 4)
            assert (picture[:, y1:y2, x1:x2] == 30 * label).all()
    assert four_in_one(images, labels.clamp(max=2), 20, seeded()) is None


def test_found_in_top4():
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6]])
    found = found_in_top4(logits, torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]]))
    assert found.tolist() == [[True] * 4, [False, False, True, True]]


def test_shrinking_is_antialiased():
    stripes = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    stripes[..., ::2] = 200
    assert (shrunk(stripes, (4, 4)).int() - 100).abs().max() <= 15  # nearest would give 0 or 200


# -- activation -------------------------------------------------------------------------------------


class ColourNetwork(nn.Module):
    """Class k is how much of colour k there is anywhere; knows where by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(4, 4)
        with torch.no_grad():
            self.mix.weight.copy_(
                torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -2]])[..., None, None]
            )
            self.mix.bias.zero_()
            self.fc.weight.copy_(torch.eye(4))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.act(self.mix(x)).mean((2, 3)))


def test_activation_points_at_what_decides():
    network = ColourNetwork().eval()
    images = torch.zeros(4, 3, 16, 16)
    boxes = torch.tensor([[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()[:3]):
        images[:, k, y1:y2, x1:x2] = 1.0
    maps = activation_maps(network, images[:3], torch.arange(3))
    assert maps.shape == (3, 16, 16)
    assert (maps.min(), maps.max()) == (0, pytest.approx(1))
    found = pointing(maps, boxes[:3])
    assert found.peak_inside.all()
    assert (found.energy_inside > 0.99).all()
    assert not pointing(maps, boxes[[1, 2, 0]]).peak_inside.any()
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())


def test_the_deciding_map_of_a_transformer_is_before_its_last_attention():
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=5, depth=2
    ).eval()
    found = deciding_map(network, (32, 32))
    assert found.layout == "tokens"
    assert not found.name.startswith(("norm", "fc_norm"))
    maps = activation_maps(network, torch.rand(2, 3, 32, 32, generator=seeded()), torch.tensor([0, 3]))
    assert torch.isfinite(maps).all()
    assert maps.amax() == pytest.approx(1)


def test_pointing_counts_cells():
    maps = torch.zeros(3, 4, 4)
    maps[0, 1, 2] = 3.0
    maps[0, 3, 3] = 1.0
    maps[2] = 0.5  # flat: a quarter of its peaks lie in any quarter
    boxes = torch.tensor([[2, 0, 4, 2]] * 3)
    found = pointing(maps, boxes)
    assert found.peak_inside.tolist() == [True, False, False]
    assert found.energy_inside.tolist() == pytest.approx([0.75, 0.0, 0.25])


# -- a checkpoint -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from recursivemix.cli import main

    run = tmp_path_factory.mktemp("evaluated") / "run"
    words = ["fit", "--epochs", "1", "--trainer.limit-train-batches", "2", "--precision", "32"]
    assert main([*words, "--trainer.enable-progress-bar", "false", "--out", str(run)]) == 0
    return run / "checkpoints" / "last.ckpt"


def test_everything_is_asked_of_a_checkpoint_and_always_the_same(checkpoint):
    from recursivemix.evaluation.evaluate import measure_checkpoint

    first, again = (evaluate_checkpoint(checkpoint, images=40, precision="32") for _ in range(2))
    assert first.pop("seconds") > 0
    again.pop("seconds")
    assert first == again
    measured = measure_checkpoint(checkpoint, precision="32")
    assert first["images"] == 360
    assert first["accuracy"]["top1"] == pytest.approx(measured["acc1"], abs=1e-4)
    assert first["nll"] == pytest.approx(measured["val_loss"], abs=1e-5)
    assert first["scale"]["top1"][0] == first["occlusion"]["top1"][0]  # both untouched
    assert set(first["corruptions"]) == set(SEVERITIES)
    assert sum(first["reliability"]["count"]) == 360
    assert first["localisation"]["maps"] == 160


def test_wrong_questions_are_named(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="--images must be at least 1, got 0"):
        evaluate_checkpoint(checkpoint, images=0)
    with pytest.raises(ValueError, match="nowhere"):
        evaluate_checkpoint(tmp_path / "nowhere.ckpt")
