"""Activation maps of networks that are known to look somewhere, and the test of where they point."""

import pytest
import torch
from torch import nn

from recursivemix.evaluation.activation import activation_maps, deciding_map
from recursivemix.evaluation.localization import pointing


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_heads_of_attention_are_no_feature_map():
    """65 tokens in heads of width 64 have nearly the aspect of a square image."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = timm.create_model(
        "vit_tiny_patch16_224", depth=2, num_classes=3, img_size=64, patch_size=8
    ).eval()
    found = deciding_map(network, (64, 64))
    assert (found.name, found.layout, found.channels) == ("blocks.1.norm1", "tokens", 192)


def test_the_deciding_map_of_a_transformer_is_before_its_last_attention():
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)  # with other weights a map may be 0 everywhere
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
