"""A safetensors file with torchvision's keys, for the networks of timm that torchvision has as well."""

from __future__ import annotations

import json
from pathlib import Path

from torchvision.models import get_model

from recursivemix.models.weight_keys import rename_by_order

from .packages import package
from .reference import Reference
from .report import ExportReport
from .timm_file import require_library_network
from .twin import Twin, check_read_back, make_twin, require_same, save_weights

# Names that timm and torchvision share for equal networks. Their MobileNetV3 and larger EfficientNets
# differ in the epsilon of batch norms, their Swin, Inception and MaxViT in layers.
SAME_NAME = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
)
TORCHVISION: dict[str, str] = {name: name for name in SAME_NAME} | {"mobilenetv2_100": "mobilenet_v2"}
"""timm's name to torchvision's name of an equal network; each export compares their logits again."""


def write_torchvision(reference: Reference, path: Path, out: Path, allow_mismatch: bool) -> ExportReport:
    """Write a file for torchvision and load it with torchvision; arguments as in `write_timm`.

    Raises:
        ValueError: torchvision has no equal network; see also `require_same`.
    """
    safetensors = package("safetensors.torch", "torchvision")
    twin = torchvision_twin(reference)
    require_same(twin, reference, allow_mismatch)
    metadata = reference.metadata() | {"architecture": twin.name, "model_args": json.dumps({})}
    save_weights(path, twin.loadable, metadata, "torchvision")
    classes = len(reference.classes)
    loaded = get_model(twin.name, num_classes=classes)
    loaded.load_state_dict(safetensors.load_file(path), strict=twin.keys.same)
    difference = check_read_back(twin, reference, loaded)
    call = (
        f"import safetensors.torch, torchvision\n"
        f"model = torchvision.models.get_model({twin.name!r}, num_classes={classes}).eval()\n"
        f"model.load_state_dict(safetensors.torch.load_file({str(out)!r})"
        + (")" if twin.keys.same else ", strict=False)")
    )
    return ExportReport("torchvision", reference.model, out, twin.keys, difference, reference.scale, call)


def torchvision_twin(reference: Reference) -> Twin:
    """Create torchvision's network that equals a network of timm.

    Raises:
        ValueError: none of its networks is known to be equal.
    """
    require_library_network(reference)
    name = TORCHVISION.get(reference.model.partition(".")[0])  # after the dot: the source of timm's weights
    if name is None:
        raise ValueError(
            f"torchvision has no network that is known to be {reference.model}; --to torchvision exports "
            f"{', '.join(TORCHVISION)}. Use --to timm, hf or onnx"
        )
    network = get_model(name, num_classes=len(reference.classes))
    weights = rename_by_order(reference.weights(), network.state_dict())
    return make_twin(reference, "torchvision", name, network, weights)
