"""MixUp, CutMix and the losses, against slow twins and torch."""

import pytest
import torch

from recursivemix import CutMix, MixUp, ResizeMix
from recursivemix.mixing.losses import soft_binary_cross_entropy, soft_cross_entropy

K = 5


def random_batch(batch_size=4, size=(7, 5)):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch_size, 2, *size, generator=generator), torch.randint(
        K, (batch_size,), generator=generator
    )


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_pixel_by_pixel(per_sample):
    """arXiv 1710.09412, equation 1, sample by sample."""
    images, labels = random_batch()
    batch = MixUp(K, per_sample=per_sample)(images, labels)
    assert len(set(batch.lam.tolist())) == (4 if per_sample else 1)
    for i, partner in enumerate(batch.draw.partners.tolist()):
        lam = batch.lam[i].item()
        torch.testing.assert_close(batch.images[i], lam * images[i] + (1 - lam) * images[partner])
        expected = torch.zeros(K)
        expected[labels[i]] += lam
        expected[labels[partner]] += 1 - lam
        torch.testing.assert_close(batch.targets[i], expected)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("mixer_class", [CutMix, ResizeMix])
def test_partners_pixels_and_places(mixer_class, per_sample):
    """Inside the box the partner's own pixels (CutMix) or the partner shrunk; outside the image's own."""
    images, labels = random_batch(size=(23, 17))
    options = {} if mixer_class is CutMix else {"interpolation": "nearest"}
    mixer = mixer_class(K, per_sample=per_sample, **options)
    for _ in range(20):
        batch = mixer(images, labels)
        boxes = batch.draw.boxes.expand(4, -1).tolist()
        for i, partner in enumerate(batch.draw.partners.tolist()):
            x1, y1, x2, y2 = boxes[i]
            for y in range(23):
                for x in range(17):
                    source, sy, sx = i, y, x
                    if y1 <= y < y2 and x1 <= x < x2:
                        source = partner
                        if mixer_class is ResizeMix:
                            sy, sx = (y - y1) * 23 // (y2 - y1), (x - x1) * 17 // (x2 - x1)
                    assert torch.equal(batch.images[i, :, y, x], images[source, :, sy, sx])


def test_blending_integers_rounds():
    """A blend of 0 and 255 is not cut off towards 0."""
    images = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255.0)]).byte()
    mixer = MixUp(2)
    for _ in range(20):
        batch = mixer(images, torch.tensor([0, 1]))
        expected = (batch.targets[:, 1] * 255).round().byte()
        assert torch.equal(batch.images[:, 0, 0, 0], expected)


def test_soft_cross_entropy_is_torchs():
    """Against `F.cross_entropy` with class probabilities, and with indices."""
    logits = torch.randn(6, K, dtype=torch.float32)
    soft = torch.rand(6, K).softmax(1)
    torch.testing.assert_close(
        soft_cross_entropy(logits, soft), torch.nn.functional.cross_entropy(logits, soft, reduction="none")
    )
    labels = torch.arange(6) % K
    one_hot = torch.nn.functional.one_hot(labels, K).float()
    torch.testing.assert_close(
        soft_cross_entropy(logits, one_hot),
        torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
    )


def test_losses_are_float32_for_half_logits():
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.randn(3, K).to(dtype)
        assert soft_cross_entropy(logits, torch.eye(3, K)).dtype == torch.float32
        assert soft_binary_cross_entropy(logits, torch.eye(3, K)).dtype == torch.float32


def test_mixed_labels_are_mixed_losses():
    """Soft targets and the pair form of the papers' code are one loss."""
    images, labels = random_batch()
    mixer = MixUp(K)
    batch = mixer(images, labels)
    logits = torch.randn(4, K)
    own, other = (
        torch.nn.functional.cross_entropy(logits, y, reduction="none")
        for y in (labels, labels[batch.draw.partners])
    )
    torch.testing.assert_close(
        mixer.loss(logits, batch), (batch.lam * own + (1 - batch.lam) * other).mean()
    )
