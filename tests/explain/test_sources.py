"""Of which images a batch is made: against the labels and the pixels that a plain mixer gives."""

import pytest
import torch
from torch.nn.functional import one_hot

from recursivemix.explain.sources import SourceTracker
from recursivemix.mixing import MIXERS, create_mixer
from recursivemix.models.create import create_model

B, STEPS, SIZE, K = 5, 4, 32, 3
MODELS = {"transmix": "vit_tiny_patch16_224"}


def network(mixer, width):
    if not MIXERS[mixer].needs_model:
        return None
    torch.manual_seed(0)
    return create_model(MODELS.get(mixer, "resnet20"), width, SIZE).train()


def batches():
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        yield (
            torch.randn(B, 3, SIZE, SIZE, generator=generator),
            torch.randint(K, (B,), generator=generator),
        )


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("mixer", MIXERS)
def test_the_sources_of_a_label_add_up_to_the_label(mixer, per_sample):
    tracker = SourceTracker(mixer, B, STEPS, network(mixer, B * STEPS), seed=1, per_sample=per_sample)
    plain = create_mixer(mixer, K, network(mixer, K), seed=1, per_sample=per_sample)
    tracker.start_epoch()
    plain.start_epoch()
    classes = torch.zeros(B * STEPS, dtype=torch.long)
    for step, (images, labels) in enumerate(batches()):
        classes[step * B : (step + 1) * B] = labels
        found = tracker(images)
        batch = plain(images, labels, indices=torch.arange(step * B, (step + 1) * B))
        plain.remember(batch, torch.zeros(B, K))
        by_class = found.label @ one_hot(classes, K).float()
        torch.testing.assert_close(by_class, batch.targets, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.pixels.sum(1), torch.ones(B), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixer", [name for name, kind in MIXERS.items() if not kind.needs_model])
def test_pixels_tell_the_same(mixer):
    """Images of one number each: what a pixel of the mixed image holds says whose it is."""
    tracker = SourceTracker(mixer, B, STEPS, seed=2)
    tracker.start_epoch()
    for step in range(STEPS):
        own = torch.arange(step * B, (step + 1) * B)
        images = own.float().view(B, 1, 1, 1).expand(B, 3, SIZE, SIZE).contiguous()
        found = tracker(images)
        if found.shown is not None:
            if mixer != "cutout":  # which shows nobody's pixels
                # ResizeMix shrinks bilinearly, which may round.
                torch.testing.assert_close(found.batch.images[:, 0], found.shown.float())
            shares = [(found.shown == s).float().mean((1, 2)) for s in range(B * STEPS)]
            torch.testing.assert_close(found.pixels, torch.stack(shares, 1))
        mean = (found.pixels * torch.arange(B * STEPS)).sum(1)
        if mixer != "cutout":
            torch.testing.assert_close(mean, found.batch.images.mean((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_numbers_are_used_again():
    tracker = SourceTracker("recursivemix", B, 2, seed=0)
    for _ in range(5):
        found = tracker(torch.randn(B, 3, SIZE, SIZE))
        assert found.label.shape == (B, 2 * B)
        torch.testing.assert_close(found.label.sum(1), torch.ones(B))


def test_a_smaller_last_batch():
    tracker = SourceTracker("recursivemix", B, STEPS)
    tracker(torch.randn(B, 3, SIZE, SIZE))
    found = tracker(torch.randn(2, 3, SIZE, SIZE))
    assert found.label.shape == (2, B * STEPS)
    assert found.pixels[:, B : B + 2].diagonal().min() > 0
