"""Small-image networks that timm lacks, registered with timm.

After importing this module ``timm.create_model("resnet20", num_classes=10)`` works, and
``timm.list_models`` lists the names. To add a network, add one line to `MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import register_model
from torch import nn

from .cifar import CifarResNet
from .pyramidnet import PyramidNet
from .resnet_stride2 import resnet18_stride2
from .wideresnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"wrn{d}_{k}": partial(WideResNet, d, k) for d, k in ((10, 2), (16, 4), (28, 10))},
    **{f"resnet18_stride2_{width}": partial(resnet18_stride2, width) for width in (16, 32, 64)},
    "pyramidnet164_270": partial(PyramidNet, 164, 270),
    "pyramidnet200_240": partial(PyramidNet, 200, 240),
}
"""The networks by name, each a function of the number of classes and of options of its own."""


def _register(name: str, build: Callable[..., nn.Module]) -> None:
    def entrypoint(
        pretrained: bool = False,
        num_classes: int = 1000,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> nn.Module:
        """Build the network, as timm calls it."""
        if pretrained:
            raise ValueError(f"there are no pretrained weights for {name}: set pretrained=False")
        return build(num_classes=num_classes, **options)

    entrypoint.__name__, entrypoint.__qualname__ = name, name
    register_model(entrypoint)


for _name, _build in MODELS.items():
    _register(_name, _build)
