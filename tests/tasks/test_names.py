"""Registries of detectors and heads: entries load, none needs torch, a new one costs a file and a line."""

import subprocess
import sys
import types
from typing import get_args

import pytest
import torch
from torch import nn

from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.detection import names as detectors
from recursivemix.tasks.detection.create import create_detector
from recursivemix.tasks.segmentation import names as heads
from recursivemix.tasks.segmentation.model import Segmenter


def test_the_registries_need_the_standard_library_only():
    code = (
        "import sys, recursivemix.tasks.detection.names, recursivemix.tasks.segmentation.names;"
        "print([m for m in ('torch', 'numpy', 'timm', 'torchvision', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_entry_can_be_loaded():
    assert all(callable(detectors.load_detector(name)) for name in detectors.DETECTORS)
    assert all(callable(heads.load_head(name)) for name in heads.HEADS)
    assert get_args(detectors.BoxDetector) == tuple(detectors.BOX_DETECTORS)
    assert get_args(heads.Head) == tuple(heads.HEADS)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"--detector must be one of atss, gfl, .*; got 'yolo'"):
        detectors.load_detector("yolo")
    with pytest.raises(ValueError, match=r"--head must be one of upernet, .*; got 'deeplab'"):
        heads.load_head("deeplab")


def test_a_new_detector_is_a_module_and_a_line(monkeypatch):
    """The module is what would be a file of the folder; the line is one of the registry."""
    from recursivemix.tasks.detection.atss import ATSS

    class WithoutCenterness(ATSS):
        def scores(self, outputs):
            return outputs["classes"].sigmoid()

    module = types.ModuleType("recursivemix.tasks.detection.plain")
    module.Plain = WithoutCenterness
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(detectors.DETECTORS, "plain", "plain:Plain")
    loaded = load_backbone("random", "resnet10t")
    detector = create_detector("plain", loaded, 3, image_size=64, max_size=96, channels=16, depth=1)
    assert isinstance(detector, WithoutCenterness)
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    losses = detector([torch.rand(3, 64, 64)], [target])
    assert sum(losses.values()).isfinite()
    with torch.no_grad():
        assert set(detector.eval()([torch.rand(3, 64, 64)])[0]) == {"boxes", "scores", "labels"}


def test_a_new_head_is_a_module_and_a_line(monkeypatch):
    class LastMap(nn.Module):
        def __init__(self, channels, width):
            super().__init__()
            self.convolution = nn.Conv2d(channels[-1], width, 1)

        def forward(self, maps):
            return self.convolution(maps[-1])

    module = types.ModuleType("recursivemix.tasks.segmentation.last_map")
    module.create = LastMap
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(heads.HEADS, "last_map", "last_map:create")
    body = load_backbone("random", "resnet10t").backbone
    network = Segmenter(body, body.channels, body.strides, 5, "last_map", width=16).eval()
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 5, 64, 96)
