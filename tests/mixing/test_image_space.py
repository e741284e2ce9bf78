"""Methods that mix pixels by masks: each against a twin in loops, written from its paper."""

import cmath
import math

import pytest
import torch
from scipy import stats

from recursivemix import Cutout, FMix, GridMix, SaliencyMix, SmoothMix
from recursivemix.mixing.draw import Draw, centred_boxes
from recursivemix.mixing.fmix import highest_share, low_pass_noise
from recursivemix.mixing.gridmix import over_pixels
from recursivemix.mixing.saliencymix import boxes_around, saliency, salient_pixels
from recursivemix.mixing.smoothmix import gaussian

K = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 4, size: tuple[int, int] = (9, 7)):
    return torch.rand(count, 3, *size, generator=seeded()), torch.arange(count) % K


def blended(images, weights, partners):
    """``w * own + (1 - w) * partner's``, pixel by pixel."""
    result = torch.zeros_like(images)
    for b, partner in enumerate(partners.tolist()):
        own = weights[b if len(weights) > 1 else 0]
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                w = float(own[y, x])
                result[b, :, y, x] = w * images[b, :, y, x] + (1 - w) * images[partner, :, y, x]
    return result


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", [FMix, GridMix, SmoothMix])
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (3, 16), (7, 13)])
def test_a_map_of_weights_is_applied_pixel_by_pixel(kind, per_sample, size):
    mixer = kind(K, per_sample=per_sample)
    images, labels = batch(4, size)
    for _ in range(4):
        result = mixer(images, labels)
        weights, partners = result.draw.weights, result.draw.partners
        assert ((weights >= 0) & (weights <= 1)).all()
        torch.testing.assert_close(result.images, blended(images, weights, partners), atol=1e-6, rtol=0)
        lam = weights.flatten(1).mean(1).expand(4)
        torch.testing.assert_close(result.lam, lam, atol=1e-6, rtol=0)
        for b in range(4):
            expected = torch.zeros(K)
            expected[labels[b]] += lam[b]
            expected[labels[partners[b]]] += 1 - lam[b]
            torch.testing.assert_close(result.targets[b], expected, atol=1e-6, rtol=0)


# -- Cutout -----------------------------------------------------------------------------------------


def test_cutout_blanks_each_images_own_box_and_keeps_its_label():
    mixer = Cutout(K)
    images, labels = batch(8, (16, 12))
    result = mixer(images + 1, labels)
    for image, (x1, y1, x2, y2) in zip(result.images, result.draw.boxes.tolist(), strict=True):
        inside = torch.zeros(16, 12, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        assert (image[:, inside] == 0).all()
        assert (image[:, ~inside] >= 1).all()
        assert (x2 - x1) <= 6
        assert (y2 - y1) <= 8
    assert len(result.draw.boxes.unique(dim=0)) > 1
    assert torch.equal(result.targets, torch.nn.functional.one_hot(labels, K).float())
    assert (result.lam == 1).all()


def test_cutouts_box_is_clipped_at_the_border():
    """Its centre is uniform: with half of each side, it is whole in about a quarter of all (3.2)."""
    boxes = Cutout(K).draw(20_000, (32, 32)).boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.max() == 16
    assert sides.min() == 8
    whole = (sides == 16).all(1).float().mean().item()
    assert whole == pytest.approx((17 / 32) ** 2, abs=0.02)


@pytest.mark.parametrize("length", [20, 32, 50, 100])
def test_cutouts_box_has_the_share_that_was_asked_for(length):
    """In float32 0.1 of 20 pixels falls short of 2, and the box would be empty."""
    for percent in range(1, 101):
        boxes = Cutout(K, size=percent / 100).draw(300, (length, length)).boxes
        side = percent * length // 100 // 2 * 2
        assert (boxes[:, 2:] - boxes[:, :2]).max() == side


# -- FMix -------------------------------------------------------------------------------------------


def test_low_pass_noise_in_loops():
    """The inverse Fourier transform written out."""
    height, width, decay = 5, 4, 3.0
    field = low_pass_noise(1, (height, width), decay, seeded(7))
    parts = torch.randn(2, 1, height, width, generator=seeded(7), dtype=torch.float64)

    def frequency(k: int, n: int) -> float:
        return (k if k < (n + 1) // 2 else k - n) / n

    for y in range(height):
        for x in range(width):
            total = 0j
            for u in range(height):
                for v in range(width):
                    f = max(math.hypot(frequency(u, height), frequency(v, width)), 1 / max(height, width))
                    value = complex(parts[0, 0, u, v], parts[1, 0, u, v]) / f**decay
                    total += value * cmath.exp(2j * math.pi * (u * y / height + v * x / width))
            assert field[0, y, x].item() == pytest.approx((total / (height * width)).real, abs=1e-9)


def test_the_highest_share_by_sorting():
    field = torch.rand(6, 5, 7, generator=seeded(), dtype=torch.float64)
    share = torch.tensor([0.0, 0.1, 0.5, 0.77, 0.999, 1.0], dtype=torch.float64)
    mask = highest_share(field, share)
    for own, kept, lam in zip(field, mask, share.tolist(), strict=True):
        count = round(lam * 35)
        best = sorted(own.flatten().tolist(), reverse=True)[:count]
        assert sorted(own[kept == 1].tolist(), reverse=True) == best
    assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_fmix_share_is_beta_and_anywhere(alpha):
    weights = FMix(K, alpha=alpha, per_sample=True).draw(4000, (16, 16)).weights
    shares = weights.flatten(1).mean(1)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    if alpha == 1:  # which whole pixels blur by half a pixel
        spread = torch.rand(4000, generator=seeded()) / 256 - 1 / 512
        assert stats.kstest((shares + spread).numpy(), "uniform").pvalue > 1e-3
    assert (weights.mean(0) - 0.5).abs().max() < 0.04


def test_decay_makes_parts_fewer():
    """Neighbours differ seldom where low frequencies rule."""

    def borders(decay: float) -> float:
        mixer = FMix(K, decay=decay, alpha=100, per_sample=True)
        weights = mixer.draw(32, (32, 32)).weights
        return (weights[:, 1:] != weights[:, :-1]).float().mean().item()

    assert borders(0) > 1.5 * borders(1)
    assert borders(1) > 1.5 * borders(3)


# -- GridMix ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (3, 2)])
def test_cells_of_a_grid(size):
    cells = torch.arange(16.0).view(1, 4, 4)
    pixels = over_pixels(cells, size)
    for y in range(size[0]):
        for x in range(size[1]):
            assert pixels[0, y, x] == cells[0, y * 4 // size[0], x * 4 // size[1]]


def test_gridmix_keeps_whole_cells():
    weights = GridMix(K, per_sample=True).draw(64, (8, 12)).weights
    blocks = weights.view(64, 4, 2, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    # p is uniform for alpha 1, and so is the number of cells kept: 17 values, each as likely.
    kept = GridMix(K, per_sample=True).draw(8000, (4, 4)).weights.flatten(1).sum(1).long()
    shares = torch.bincount(kept, minlength=17) / 8000
    assert (shares - 1 / 17).abs().max() < 0.015


# -- SmoothMix --------------------------------------------------------------------------------------


def test_gaussian_in_loops():
    sigma, place = torch.tensor([0.25, 0.5]).double(), torch.tensor([[0.2, 0.9], [0.55, 0.0]]).double()
    mask = gaussian(sigma, place, (6, 9))
    for n in range(2):
        cy, cx = int(place[n, 0] * 6), int(place[n, 1] * 9)
        for y in range(6):
            for x in range(9):
                dy, dx = (y - cy) / (float(sigma[n]) * 6), (x - cx) / (float(sigma[n]) * 9)
                assert mask[n, y, x].item() == pytest.approx(math.exp(-(dy**2 + dx**2) / 2))


def test_smoothmix_mean_is_the_integral_over_sigma_and_place():
    size = (16, 12)

    def mean(sigma: float, n: int) -> float:
        return sum(
            math.exp(-(((at - centre) / (sigma * n)) ** 2) / 2) for at in range(n) for centre in range(n)
        ) / (n * n)

    sigmas = [0.25 + 0.25 * (i + 0.5) / 50 for i in range(50)]
    expected = sum(mean(sigma, 16) * mean(sigma, 12) for sigma in sigmas) / len(sigmas)
    weights = SmoothMix(K, per_sample=True).draw(20_000, size).weights
    assert 1 - weights.mean().item() == pytest.approx(expected, abs=0.005)


def test_smoothmix_refuses_masks():
    images, labels = batch()
    with pytest.raises(ValueError, match="would invent classes"):
        SmoothMix(K)(images, labels, masks=torch.zeros(4, 9, 7, dtype=torch.long))


# -- SaliencyMix ------------------------------------------------------------------------------------


def test_saliency_in_loops():
    images = torch.rand(2, 3, 9, 12, generator=seeded(4))
    found = saliency(images, 2)
    for b in range(2):
        grey = images[b].mean(0)

        def around(y: int, x: int, height: int, width: int, grey=grey) -> float:
            rows = slice(max(0, y - height // 2), y + height // 2 + 1)
            return grey[rows, max(0, x - width // 2) : x + width // 2 + 1].mean().item()

        for y in range(9):
            for x in range(12):
                total = 0.0
                for scale in (0.125, 0.25, 0.5):
                    height, width = (max(3, int(scale * n)) for n in (9, 12))
                    height, width = height + 1 - height % 2, width + 1 - width % 2
                    total += abs(around(y, x, 3, 3) - around(y, x, height, width))
                assert found[b, y, x].item() == pytest.approx(total, abs=1e-5)


def test_the_box_is_where_the_partner_shows_something():
    images = torch.zeros(2, 3, 32, 24)
    images[0, :, 4:7, 6:9] = 1
    images[1, :, 24:27, 15:18] = 1
    assert salient_pixels(images, 2).tolist() == [[5, 7], [25, 16]]
    mixer = SaliencyMix(K)
    draw = Draw(lam=torch.tensor([0.75]), partners=torch.tensor([1, 0]))
    result = mixer(images, torch.tensor([0, 1]), draw=draw)
    # The spot of the other image, and the own one, which is outside of the box of half of each side.
    assert (result.images.sum((1, 2, 3)) == 2 * images[0].sum()).all()
    torch.testing.assert_close(result.lam, 1 - torch.tensor([15 * 12, 13 * 12]) / (32 * 24))


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [(7, 13), (16, 9)])
def test_saliencymix_in_loops(size, per_sample):
    """The whole method: the partner's most salient pixel, a box around it, pixels and label."""
    mixer = SaliencyMix(K, per_sample=per_sample)
    images, labels = batch(4, size)
    for _ in range(4):
        result = mixer(images, labels)
        found = saliency(images, 2)
        for b, partner in enumerate(result.draw.partners.tolist()):
            area = 1 - float(result.draw.lam[b if per_sample else 0])
            peak = found[partner].flatten().tolist()
            cy, cx = divmod(peak.index(max(peak)), size[1])
            hy, hx = (int(n * math.sqrt(area)) // 2 for n in size)
            expected, pasted = images[b].clone(), 0
            for y in range(max(cy - hy, 0), min(cy + hy, size[0])):
                for x in range(max(cx - hx, 0), min(cx + hx, size[1])):
                    expected[:, y, x] = images[partner, :, y, x]
                    pasted += 1
            lam = 1 - pasted / (size[0] * size[1])
            assert torch.equal(result.images[b], expected)
            assert result.lam[b].item() == pytest.approx(lam, abs=1e-6)
            target = torch.zeros(K)
            target[labels[b]] += lam
            target[labels[partner]] += 1 - lam
            torch.testing.assert_close(result.targets[b], target, atol=1e-6, rtol=0)


def test_boxes_around_given_pixels_are_cutmixs():
    """Where the centre is the one that CutMix draws."""
    area = torch.rand(50, generator=seeded(), dtype=torch.float64)
    place = torch.rand(50, 2, generator=seeded(1), dtype=torch.float64)
    centres = (place * torch.tensor([33, 20])).long()
    assert torch.equal(
        boxes_around(centres, area, (33, 20)), centred_boxes(area, place.unbind(1), (33, 20))
    )


def test_an_image_without_anything_is_no_trouble():
    images = torch.full((3, 3, 8, 8), 0.5)
    result = SaliencyMix(K)(images, torch.arange(3))
    assert torch.equal(result.images, images)
    assert torch.isfinite(result.lam).all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Cutout, {"size": 0}, r"in \(0, 1\], got 0; .* share of the image's side"),
        (Cutout, {"size": 16}, r"in \(0, 1\], got 16"),
        (FMix, {"decay": -1}, "decay is a power and must be 0 or more"),
        (FMix, {"alpha": 0}, "alpha is a Beta parameter"),
        (GridMix, {"grid": 0}, "number of at least 1, got 0"),
        (GridMix, {"grid": 2.5}, "a whole number of at least 1, got 2.5"),
        (SmoothMix, {"sigma": 0.3}, r"as in \(0.25, 0.5\), got 0.3"),
        (SmoothMix, {"sigma": (0.1, 0.2, 0.3)}, r"the least and the largest share.*got \(0.1, 0.2, 0.3\)"),
        (SmoothMix, {"sigma": (0.5, 0.25)}, "in this order"),
        (SmoothMix, {"sigma": (0, 0.25)}, "above 0"),
        (SaliencyMix, {"alpha": -1}, "alpha is a Beta parameter"),
    ],
)
def test_wrong_settings_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(K, **options)
