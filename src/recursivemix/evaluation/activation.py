"""Class activation maps of any classifier, by pytorch-grad-cam."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import (
    FeatureMap,
    as_logits,
    find_feature_map,
    first_tensor,
    trace_backbone,
)


def activation_maps(network: nn.Module, images: Tensor, classes: Tensor, batch_size: int = 64) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391): what in each image speaks for a class.

    Args:
        network: a classifier, in eval mode; it keeps no hook and no gradient.
        images: (N, 3, H, W) as the network takes them.
        classes: (N,) class indices.
        batch_size: images at a time.

    Returns:
        (N, H, W) float32 on the CPU, each map scaled to [0, 1].

    Raises:
        ValueError: pytorch-grad-cam is missing, or no feature map decides about the classes.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ValueError(
            "class activation maps need pytorch-grad-cam: pip install 'recursivemix[report]'"
        ) from error
    size = (images.shape[-2], images.shape[-1])
    found = deciding_map(network, size)

    def as_map(output: Any) -> Tensor:
        return found.as_map(output, size)

    parts = []
    with torch.enable_grad():
        layer = network.get_submodule(found.name)
        with GradCAM(network, [layer], reshape_transform=as_map) as cam:
            for part, own in zip(
                torch.split(images, batch_size), torch.split(classes, batch_size), strict=True
            ):
                targets = [ClassifierOutputTarget(label) for label in own.tolist()]
                parts.append(torch.from_numpy(cam(part, targets)))
    network.zero_grad(set_to_none=True)
    return torch.cat(parts).float()


def deciding_map(network: nn.Module, image_size: tuple[int, int]) -> FeatureMap:
    """The last feature map that the logits depend on.

    A transformer that classifies by its class token has maps after its last attention that decide nothing.
    """
    trace = trace_backbone(network, image_size)
    seen: set[str] = set()
    for call in reversed(trace.calls):
        if call.name in seen:
            continue
        seen.add(call.name)
        try:
            found = find_feature_map(network, trace, call.name, None)
        except ValueError:
            continue
        if _decides(network, found, image_size):
            return found
    raise ValueError(f"{type(network).__name__} has no feature map that decides about its classes")


def _decides(network: nn.Module, found: FeatureMap, image_size: tuple[int, int]) -> bool:
    kept: list[Any] = []
    handle = network.get_submodule(found.name).register_forward_hook(
        lambda m, i, output: kept.append(output)
    )
    weight = next(network.parameters())
    image = torch.arange(3 * image_size[0] * image_size[1], dtype=torch.float64).sin()
    image = image.to(weight.device, weight.dtype).view(1, 3, *image_size).requires_grad_()
    try:
        with torch.enable_grad():
            logits = as_logits(network(image))
            output = first_tensor(kept[-1])
            assert output is not None
            (gradient,) = torch.autograd.grad(logits[:, 0].sum(), output, allow_unused=True)
    finally:
        handle.remove()
    # Of the cells alone: the class token decides for itself.
    return gradient is not None and bool((found.as_map(gradient, image_size) != 0).any())
