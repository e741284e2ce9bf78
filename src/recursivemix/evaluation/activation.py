"""Class activation maps of any classifier: CAM, and the methods of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import (
    FeatureMap,
    as_logits,
    find_feature_map,
    first_tensor,
    trace_backbone,
)

from .names import Method

GRAD_CAM_CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
}
"""Classes of pytorch-grad-cam by method."""
METHODS: tuple[str, ...] = get_args(Method)


def activation_maps(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    batch_size: int = 64,
    method: Method = "gradcam",
    layer: str | None = None,
) -> Tensor:
    """Return the class activation map of one class per image.

    Args:
        network: classifier in eval mode; no hook and no gradient remains on it.
        images: (N, 3, H, W), normalized.
        classes: (N,) class indices.
        batch_size: images per pass.
        method: one of `METHODS`: "cam" (see `weighted_maps`), "gradcam" (Selvaraju et al.,
            arXiv 1610.02391), or another method of pytorch-grad-cam.
        layer: name of the submodule that returns the feature map; None selects it by `deciding_map`.

    Returns:
        (N, H, W) float32 on the CPU, each map scaled to [0, 1].

    Raises:
        ValueError: pytorch-grad-cam is missing, the method is unknown, the logits depend on no feature map,
            or "cam" is not defined for the network.
    """
    batches = list(zip(torch.split(images, batch_size), torch.split(classes, batch_size), strict=True))
    if method == "cam":
        return torch.cat([weighted_maps(network, *part, layer) for part in batches])
    if method not in GRAD_CAM_CLASSES:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    try:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ValueError(
            "class activation maps need pytorch-grad-cam: pip install 'recursivemix[report]'"
        ) from error
    make = getattr(pytorch_grad_cam, GRAD_CAM_CLASSES[method])
    size = (images.shape[-2], images.shape[-1])
    feature_map = deciding_map(network, size, layer)

    def as_map(output: Any) -> Tensor:
        return feature_map.as_map(output, size)

    maps = []
    with torch.enable_grad():
        module = network.get_submodule(feature_map.name)
        with make(network, [module], reshape_transform=as_map) as cam:
            for pixels, labels in batches:
                targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
                maps.append(torch.from_numpy(cam(pixels, targets)))
    network.zero_grad(set_to_none=True)
    return torch.cat(maps).float()


def weighted_maps(network: nn.Module, images: Tensor, classes: Tensor, layer: str | None = None) -> Tensor:
    """Return CAM (Zhou et al., arXiv 1512.04150, equation 2): channels weighted by the class's weights.

    CAM is defined if the logits are a linear layer of the mean of the feature map; this is checked on the
    images. Arguments and result are those of `activation_maps`; negative values become 0, as in Grad-CAM.
    """
    size = (images.shape[-2], images.shape[-1])
    feature_map = deciding_map(network, size, layer)
    with recorded(network.get_submodule(feature_map.name)) as outputs, torch.no_grad():
        logits = as_logits(network(images)).float()
    features = feature_map.as_map(outputs[-1], size).float()  # (N, C, h, w)
    linear = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear)
        and module.in_features == features.shape[1]
        and module.out_features == logits.shape[1]
    ]
    for module in reversed(linear):
        pooled = nn.functional.linear(features.mean((2, 3)), module.weight.float(), None)
        offset = 0 if module.bias is None else module.bias.detach().float()
        if torch.allclose(pooled + offset, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
            weights = module.weight.detach().float()[classes]  # (N, C)
            maps = torch.einsum("nchw,nc->nhw", features, weights).clamp(min=0)
            break
    else:
        raise ValueError(
            f"cam needs one linear layer on the mean of the feature map, and {type(network).__name__} has "
            f"none on {feature_map.name!r}: use --method gradcam"
        )
    large = nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    lowest, highest = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - lowest) / (highest - lowest).clamp(min=1e-7)).detach().cpu()


def deciding_map(network: nn.Module, image_size: tuple[int, int], layer: str | None = None) -> FeatureMap:
    """Return the last feature map that the logits depend on, or that of the submodule ``layer``.

    In a transformer that classifies its class token, the patch tokens after the last attention have no
    effect on the logits.

    Raises:
        ValueError: there is no such map.
    """
    trace = trace_backbone(network, image_size)
    if layer is not None:
        return find_feature_map(network, trace, layer, None)
    seen: set[str] = set()
    for call in reversed(trace.calls):
        if call.name in seen:
            continue
        seen.add(call.name)
        try:
            feature_map = find_feature_map(network, trace, call.name, None)
        except ValueError:
            continue
        if _decides(network, feature_map, image_size):
            return feature_map
    raise ValueError(
        f"{type(network).__name__} has no feature map that its logits depend on: name a --layer"
    )


def _decides(network: nn.Module, feature_map: FeatureMap, image_size: tuple[int, int]) -> bool:
    """Return whether the first logit has a gradient with respect to the cells of a feature map."""
    weight = next(network.parameters())
    image = torch.arange(3 * image_size[0] * image_size[1], dtype=torch.float64).sin()
    image = image.to(weight.device, weight.dtype).view(1, 3, *image_size).requires_grad_()
    with recorded(network.get_submodule(feature_map.name)) as outputs, torch.enable_grad():
        logits = as_logits(network(image))
        output = first_tensor(outputs[-1])
        assert output is not None
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), output, allow_unused=True)
    # Without prefix tokens: the class token always has a gradient.
    return gradient is not None and bool((feature_map.as_map(gradient, image_size) != 0).any())


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Any]]:
    """Collect the outputs of a submodule."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
