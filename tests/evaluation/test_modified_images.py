"""Corrupted, covered, shrunk and combined images against rules stated in loops."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recursivemix.evaluation.corruption import SEVERITIES, corrupted
from recursivemix.evaluation.multiple import found_in_top4, four_in_one, run
from recursivemix.evaluation.occlusion import occluded
from recursivemix.evaluation.scale import on_other_image, shrunk


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    with pytest.raises(ValueError, match="severity 1 to 5, got 'fog' and 2"):
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
    assert torch.equal(on_other_image(images, 1.0, seeded()), images)
    result = on_other_image(images, 0.5, seeded())
    for i in range(10):
        assert (result[i, 0] == 20 * i).sum() == 8 * 6
        assert (result[i, 0] == 20 * ((i + 5) % 10)).sum() == 16 * 12 - 8 * 6
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        on_other_image(images, 0.0, seeded())


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


def test_the_top_4_of_four_classes_tell_nothing():
    """All four classes are among the top 4 of any prediction: no figure of 100 % is measured."""
    labels = torch.arange(4).repeat_interleave(3)
    subset = SimpleNamespace(images=photos(12), labels=labels)
    for classes in (4, 5):
        logits = torch.zeros(12, classes)
        predictor = SimpleNamespace(logits=lambda images, k=classes: torch.zeros(len(images), k))
        measured = run(SimpleNamespace(logits=logits, subset=subset, predictor=predictor, seed=0))
        assert (measured["multiple"] is None) == (classes == 4)


def test_shrinking_is_antialiased():
    stripes = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    stripes[..., ::2] = 200
    assert (shrunk(stripes, (4, 4)).int() - 100).abs().max() <= 15  # nearest would give 0 or 200
