"""A safetensors file with torchvision's keys, for the families of timm that torchvision builds alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torchvision.models import get_model

from .packages import package
from .report import ExportReport
from .timm_file import require_library_network
from .trained import Trained
from .twin import Twin, check_read_back, make_twin, require_same, save_weights

# The names that timm and torchvision share. Others look alike and are not: their MobileNetV3 and larger
# EfficientNets differ in the epsilon of batch norms, their Swin, Inception and MaxViT in layers.
SAME_NAME = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
)
TORCHVISION: dict[str, str] = {name: name for name in SAME_NAME} | {"mobilenetv2_100": "mobilenet_v2"}
"""timm's name to torchvision's, where both are one network; every export checks it again by its logits."""


def write_torchvision(trained: Trained, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a file for torchvision and read it back with torchvision; arguments as in `write_timm`.

    Raises:
        ValueError: torchvision has no such network; see also `require_same`.
    """
    safetensors = package("safetensors.torch", "torchvision")
    twin = torchvision_twin(trained)
    require_same(twin, trained, allow_mismatch)
    metadata = trained.metadata() | {"architecture": twin.name, "model_args": json.dumps({})}
    save_weights(path, twin.loadable, metadata, "torchvision")
    loaded = get_model(twin.name, num_classes=len(trained.classes))
    loaded.load_state_dict(safetensors.load_file(path), strict=twin.keys.same)
    difference = check_read_back(twin, trained, loaded)
    call = (
        f"import safetensors.torch, torchvision\n"
        f"model = torchvision.models.get_model({twin.name!r}, num_classes={len(trained.classes)}).eval()\n"
        f"model.load_state_dict(safetensors.torch.load_file({str(out)!r})"
        + (")" if twin.keys.same else ", strict=False)")
    )
    return ExportReport("torchvision", trained.model, out, twin.keys, difference, trained.scale, call)


def torchvision_twin(trained: Trained) -> Twin:
    """torchvision's network of this kind.

    Raises:
        ValueError: it has none that is known to be the same.
    """
    require_library_network(trained)
    name = TORCHVISION.get(trained.model.partition(".")[0])  # after the dot: where timm's weights are from
    if name is None:
        raise ValueError(
            f"torchvision has no network that is known to be {trained.model}; --to torchvision takes "
            f"{', '.join(TORCHVISION)}. Use --to timm, hf or onnx"
        )
    network = get_model(name, num_classes=len(trained.classes))
    weights = rename_by_order(trained.weights(), network.state_dict())
    return make_twin(trained, "torchvision", name, network, weights)


def rename_by_order(weights: dict[str, Tensor], there: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under another library's keys: the n-th is the n-th there, reshaped if its size allows.

    Both libraries register the layers of the networks in `TORCHVISION` in one order; VGG's first linear
    layer is a convolution in timm. Whether it was right is for the logits to say. Weights whose keys are
    the library's already, and those of another count, are returned as they are.
    """
    if set(weights) == set(there) or len(weights) != len(there):
        return weights
    return {
        key: value.reshape(wanted.shape) if value.numel() == wanted.numel() else value
        for (key, wanted), value in zip(there.items(), weights.values(), strict=True)
    }
