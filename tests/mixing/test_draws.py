"""The random draws, against closed forms and against a slow box drawn by the book."""

import math

import pytest
import torch

from recursivemix import CutMix, RecursiveMix, ResizeMix
from recursivemix.mixing.draw import beta, box_shares, centred_boxes
from recursivemix.mixing.paste import nearest_index, resize_weights, shrink
from recursivemix.mixing.stream import seeded_generator


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_beta_has_its_moments_and_distribution(alpha):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)), and scipy's distribution by Kolmogorov-Smirnov."""
    from scipy import stats

    draws = beta(alpha, 20_000, seeded_generator(0, 0))
    assert draws.mean().item() == pytest.approx(0.5, abs=0.015)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert stats.kstest(draws.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_a_tiny_beta_parameter_is_a_coin():
    draws = beta(1e-4, 1000, seeded_generator(0, 0))
    assert ((draws >= 0) & (draws <= 1)).all()
    assert draws.round().mean().item() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("size", [(32, 32), (9, 5), (64, 8), (1, 7)])
def test_centred_boxes_by_the_book(size):
    """docs/paper.md 1.1, step 2, in plain Python for every draw."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(500, 3, generator=generator, dtype=torch.float64)
    boxes = centred_boxes(u[:, 0] * 0.5, u[:, 1:].unbind(1), size)
    height, width = size
    for (area, row, column), box in zip(u.tolist(), boxes.tolist(), strict=True):
        side = math.sqrt(area * 0.5)
        half_w, half_h = math.floor(width * side) // 2, math.floor(height * side) // 2
        cy, cx = int(row * height), int(column * width)
        assert box == [
            max(cx - half_w, 0), max(cy - half_h, 0), min(cx + half_w, width), min(cy + half_h, height)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "alpha", "mean", "median", "largest"),
    [(32, 0.1, 0.033, 0.035, 0.098), (32, 0.5, 0.166, 0.152, 0.473), (32, 0.9, 0.275, 0.254, 0.879),
     (224, 0.5, 0.182, 0.171, 0.498)],
)  # fmt: skip
def test_pasted_area_of_recursivemix(width, alpha, mean, median, largest):
    """docs/paper.md 1.3: Monte-Carlo values of the authors' sampler."""
    mixer = RecursiveMix(2, max_area=alpha, per_sample=True)
    shares = box_shares(mixer.draw(40_000, (width, width)).boxes, (width, width))
    assert shares.mean().item() == pytest.approx(mean, abs=0.003)
    assert shares.median().item() == pytest.approx(median, abs=0.006)
    assert shares.max().item() <= largest + 0.03


def test_pasted_area_of_cutmix():
    """docs/paper.md 1.3: 0.300 at width 32 with the same clipping."""
    mixer = CutMix(2, per_sample=True)
    shares = box_shares(mixer.draw(40_000, (32, 32)).boxes, (32, 32))
    assert shares.mean().item() == pytest.approx(0.300, abs=0.005)


def test_resizemix_boxes_lie_whole_and_anywhere():
    """Sides are the scale's share exactly; every place where a box fits is equally likely."""
    mixer = ResizeMix(2, per_sample=True)
    boxes = mixer.draw(60_000, (20, 10)).boxes
    sides = boxes[:, 2:] - boxes[:, :2]  # (N, 2): width, height
    assert sides[:, 0].min() == 1
    assert sides[:, 0].max() == 7
    assert sides[:, 1].max() == 15
    small = boxes[sides[:, 0] == 3]
    counts = small[:, 0].bincount(minlength=8).float()
    assert len(counts) == 8  # 0..7, the last one touches the border
    torch.testing.assert_close(counts / counts.sum(), torch.full((8,), 1 / 8), atol=0.02, rtol=0)


def test_boxes_cover_the_image_as_counted():
    """A bound that is off by one leaves a border untouched.

    At a quarter of 16x16 the half side is 4: pixel j is covered by the centres in j - 4 < c <= j + 4.
    """
    place = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = centred_boxes(torch.full((40_000,), 0.25, dtype=torch.float64), place.unbind(1), (16, 16))
    at = torch.arange(16)
    expected = torch.tensor([sum(j - 4 < c <= j + 4 for c in range(16)) / 16 for j in range(16)])
    for axis in (0, 1):
        covered = (at >= boxes[:, axis, None]) & (at < boxes[:, 2 + axis, None])
        torch.testing.assert_close(covered.float().mean(0), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("source", [*range(1, 40), 97, 112, 224, 255])
def test_nearest_index_is_interpolates(source):
    """Against `F.interpolate`, whose float32 scale is off from integer division by a pixel at times."""
    pixels = torch.arange(source, dtype=torch.float32)[None, None]
    for length in range(1, min(source, 120) + 1):
        expected = torch.nn.functional.interpolate(pixels, size=length, mode="nearest")[0, 0].long()
        ours = nearest_index(torch.tensor([length]), source, torch.tensor([0]), length)[0]
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("mode", ["bilinear", "area"])
def test_resize_weights_are_interpolates(mode):
    """The linear map of one dimension, against `F.interpolate` of the unit vectors."""
    for source, length in [(1, 1), (5, 3), (7, 7), (32, 13), (9, 1), (3, 8)]:
        eye = torch.eye(source)[None, :, :]  # (1, source, source)
        name = "linear" if mode == "bilinear" else "area"
        align = {"align_corners": False} if mode == "bilinear" else {}
        expected = torch.nn.functional.interpolate(eye, size=length, mode=name, **align)[0].T
        ours = resize_weights(torch.tensor([length]), source, torch.tensor([0]), length, mode)[0]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [33, 96, 130])  # below and above the switch between two kernels
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64, torch.bool])
def test_nearest_shrink_is_interpolates(side, channels_last, dtype):
    images = torch.randint(0, 2 if dtype == torch.bool else 200, (2, 3, side, side)).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    for size in [(1, 1), (7, 20), (side, side)]:
        expected = torch.nn.functional.interpolate(images.float(), size=size, mode="nearest")
        assert torch.equal(shrink(images, size, "nearest").float(), expected)
