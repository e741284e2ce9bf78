"""Networks by name: counts of parameters, small stems, clear errors."""

import pytest
import torch
from torch import nn

from recursivemix.models.cifar import CifarResNet
from recursivemix.models.create import create_model, use_small_stem


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameter_counts_of_the_paper(depth, millions):
    """He et al., arXiv 1512.03385, table 6."""
    count = sum(p.numel() for p in CifarResNet(depth, 10).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.04 if depth == 110 else 0.0055)


def test_depth_must_fit():
    with pytest.raises(ValueError, match="6 n \\+ 2"):
        CifarResNet(21, 10)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("resnet18", 4),
        ("densenet121", 4),
        ("convnext_atto", 4),
        ("regnety_002", 2),
        ("mobilenetv3_small_100", 2),
    ],
)
def test_small_images_keep_their_resolution(name, cells):
    model = create_model(name, 7, 32).eval()
    features = model.forward_features(torch.zeros(1, 3, 32, 32))
    assert features.shape[-1] == cells
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_transformer_gets_patches_of_an_eighth():
    model = create_model("vit_tiny_patch16_224", 7, 32).eval()
    assert model.patch_embed.patch_size == (4, 4)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_large_images_leave_the_network_as_it_is():
    assert create_model("resnet18", 7, 96).conv1.kernel_size == (7, 7)


def test_a_stem_without_stride_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(2))
    use_small_stem(model)
    assert isinstance(model[1], nn.MaxPool2d)


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match=r"unknown model 'resnet19': did you mean .*resnet18"):
        create_model("resnet19", 10, 32)
