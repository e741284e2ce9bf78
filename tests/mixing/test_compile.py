"""`torch.compile`: after warm-up, twenty steps without a recompilation."""

import pytest
import torch
from torch import nn

from recursivemix import MIXERS, RecursiveMix, RegionModel, create_mixer

K = 6


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.config.error_on_recompile = False
    torch._dynamo.reset()


def data(t):
    generator = torch.Generator().manual_seed(t)
    return torch.rand(4, 3, 16, 12, generator=generator), torch.randint(K, (4,), generator=generator)


@pytest.mark.parametrize("per_sample", [False, True])
# A method that works inside the network keeps what is to happen there as Python state, and is not compiled.
@pytest.mark.parametrize("name", [name for name, kind in MIXERS.items() if not kind.needs_model])
@pytest.mark.slow
def test_mixing_step(name, per_sample):
    """The compiled step gives the batches of the plain one."""
    plain = create_mixer(name, K, per_sample=per_sample)
    mixer = create_mixer(name, K, per_sample=per_sample)
    compiled = torch.compile(mixer.__call__, backend="aot_eager")
    warm = 12 if name == "alternate" else 4  # every member has graphs of its own
    for t in range(24):
        torch._dynamo.config.error_on_recompile = t >= warm
        images, labels = data(t)
        expected = plain(images, labels, indices=torch.arange(4))
        batch = compiled(images, labels, indices=torch.arange(4))
        # Equal for nearest; other interpolations round differently in their two forms.
        torch.testing.assert_close(batch.images, expected.images, atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.targets, expected.targets)
        logits = torch.zeros(4, K)
        plain.remember(expected, logits)
        mixer.remember(batch, logits)


@pytest.mark.slow
def test_model_and_loss():
    """Forward, loss and backward as one compiled function, the mixer outside it."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K)
    )
    model = RegionModel(backbone, image_size=(16, 12))
    mixer = RecursiveMix.paper(K)

    @torch.compile(backend="aot_eager")
    def loss_and_logits(batch):
        logits, region_logits = model(batch.images, batch.boxes)
        return mixer.loss(logits, batch, region_logits), logits

    for t in range(24):
        torch._dynamo.config.error_on_recompile = t >= 4
        batch = mixer(*data(t))
        loss, logits = loss_and_logits(batch)
        loss.backward()
        mixer.remember(batch, logits)
        expected_logits, regions = model(batch.images, batch.boxes)
        torch.testing.assert_close(loss, mixer.loss(expected_logits, batch, regions))
