"""Segmenters on backbones of a few layers: the maps they take, half precision, what they leave alone."""

import pytest
import torch
from torch import nn

from recursivemix.tasks.segmentation.model import Segmenter, segmentation_loss
from recursivemix.tasks.segmentation.names import HEADS

STRIDES = (4, 8, 16, 32)
CHANNELS = (8, 12, 16, 20)


class Maps(nn.Module):
    """One map of every stride, each of the image itself."""

    def __init__(self, channels, strides):
        super().__init__()
        layers = [nn.Conv2d(3, c, s, s, padding=s // 2) for c, s in zip(channels, strides, strict=True)]
        self.layers = nn.ModuleList(layers)
        self.given = []

    def forward(self, images):
        self.given = [layer(images) for layer in self.layers]
        return self.given


def make(head="upernet", channels=CHANNELS, strides=STRIDES, **others):
    torch.manual_seed(0)
    return Segmenter(Maps(channels, strides), channels, strides, 5, head, width=16, **others)


@pytest.mark.parametrize(
    ("head", "count"), [("upernet", 2), ("upernet", 3), ("upernet", 4), ("pspnet", 1), ("pspnet", 4)]
)
@pytest.mark.parametrize("finest", [1, 4])
def test_any_number_of_maps(head, count, finest):
    strides = [finest * 2**i for i in range(count)]
    network = make(head, CHANNELS[:count], strides)
    images = torch.randn(2, 3, 65, 97)
    logits, aux = network(images)
    assert logits.shape == aux.shape == (2, 5, 65, 97)
    network.eval()
    assert network(images).shape == (2, 5, 65, 97)


def test_who_trains_which_map():
    def trained(network, output):
        network.zero_grad()
        network(torch.randn(2, 3, 64, 96))[output].square().mean().backward()
        return [layer.weight.grad is not None for layer in network.backbone.layers]

    upernet, pspnet = make("upernet"), make("pspnet")
    assert trained(upernet, 0) == [True] * 4
    assert trained(pspnet, 0) == [False, False, False, True]
    assert trained(upernet, 1) == trained(pspnet, 1) == [False, False, True, False]


@pytest.mark.parametrize("head", list(HEADS))
def test_the_backbones_maps_are_left_alone(head):
    network = make(head)
    images = torch.randn(2, 3, 64, 96)
    copy = images.clone()
    network(images)
    assert torch.equal(images, copy)
    for found, layer in zip(network.backbone.given, network.backbone.layers, strict=True):
        assert torch.equal(found, layer(images))
    assert len(network.backbone.given) == 4


@pytest.mark.parametrize("head", list(HEADS))
def test_half_precision(head):
    network = make(head)
    maps = torch.randint(5, (2, 64, 96))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, aux = network(torch.randn(2, 3, 64, 96))
        losses = segmentation_loss(logits, aux, maps, 0.4)
    assert logits.dtype == aux.dtype == torch.float32  # enlarged and compared in full
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_evaluation_looks_at_each_image_alone():
    network = make().eval()
    images = torch.randn(3, 3, 64, 96)
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_decoders_weights_are_in_the_state():
    state = make("upernet").state_dict()
    for name in ("decoder.psp.out_conv.0.weight", "decoder.fusion_block.0.weight"):
        assert name in state
    assert "decoder.psp.blocks.3.pool.1.0.weight" in make("pspnet").state_dict()


def test_the_auxiliary_heads_loss_is_weighted():
    logits, aux = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    maps = torch.randint(3, (2, 4, 5)).byte()
    one, none = (segmentation_loss(logits, aux, maps, weight) for weight in (1.0, 0.0))
    assert one["decode"] == none["decode"]
    assert none["aux"] == 0 < one["aux"]


def test_it_learns_its_batch():
    """Left and right half are two classes, told apart by their colour."""
    network = make()
    maps = torch.zeros(2, 64, 96, dtype=torch.long)
    maps[:, :, 48:] = 1
    images = torch.randn(2, 3, 64, 96) * 0.1 + (2.0 * maps[:, None] - 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(30):
        losses = segmentation_loss(*network(images), maps, 0.4)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    right = network(images)[0].argmax(1) == maps
    assert right.float().mean() > 0.95
