"""Class activation maps of any classifier: CAM by itself, others by pytorch-grad-cam."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import (
    FeatureMap,
    as_logits,
    find_feature_map,
    first_tensor,
    trace_backbone,
)

Method = Literal["cam", "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "scorecam"]
GRAD_CAM_CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
}
"""Methods of pytorch-grad-cam, by its names."""
METHODS: tuple[str, ...] = ("cam", *GRAD_CAM_CLASSES)


def activation_maps(
    network: nn.Module,
    images: Tensor,
    classes: Tensor,
    batch_size: int = 64,
    method: Method = "gradcam",
    layer: str | None = None,
) -> Tensor:
    """What in each image speaks for a class: Grad-CAM (Selvaraju et al., arXiv 1610.02391), or another.

    Args:
        network: a classifier, in eval mode; it keeps no hook and no gradient.
        images: (N, 3, H, W) as the network takes them.
        classes: (N,) class indices.
        batch_size: images at a time.
        method: one of `METHODS`; "cam" is that of `weighted_maps`, for networks that pool and classify.
        layer: the submodule that returns the feature map; None finds it.

    Returns:
        (N, H, W) float32 on the CPU, each map scaled to [0, 1].

    Raises:
        ValueError: pytorch-grad-cam is missing, an unknown method, no feature map that decides about the
            classes, or a network without the layers that "cam" is defined for.
    """
    if method == "cam":
        parts = zip(torch.split(images, batch_size), torch.split(classes, batch_size), strict=True)
        return torch.cat([weighted_maps(network, some, own, layer) for some, own in parts])
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
    found = deciding_map(network, size, layer)

    def as_map(output: Any) -> Tensor:
        return found.as_map(output, size)

    maps = []
    with torch.enable_grad():
        module = network.get_submodule(found.name)
        with make(network, [module], reshape_transform=as_map) as cam:
            for part, own in zip(
                torch.split(images, batch_size), torch.split(classes, batch_size), strict=True
            ):
                targets = [ClassifierOutputTarget(label) for label in own.tolist()]
                maps.append(torch.from_numpy(cam(part, targets)))
    network.zero_grad(set_to_none=True)
    return torch.cat(maps).float()


def weighted_maps(network: nn.Module, images: Tensor, classes: Tensor, layer: str | None = None) -> Tensor:
    """CAM (Zhou et al., arXiv 1512.04150, equation 2): the feature map weighted by a class's own weights.

    Defined where the logits are one linear layer of the mean of the map, which is checked on the images.

    Args and result as in `activation_maps`; negative evidence is cut off, as Grad-CAM does.
    """
    size = (images.shape[-2], images.shape[-1])
    found = deciding_map(network, size, layer)
    kept: list[Any] = []
    handle = network.get_submodule(found.name).register_forward_hook(
        lambda m, i, output: kept.append(output)
    )
    try:
        with torch.no_grad():
            logits = as_logits(network(images)).float()
    finally:
        handle.remove()
    features = found.as_map(kept[-1], size).float()  # (N, C, h, w)
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
            f"{type(network).__name__} does not classify the mean of {found.name!r} by one linear layer, "
            f"for which cam is defined: take gradcam"
        )
    large = nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    lowest, highest = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return ((large - lowest) / (highest - lowest).clamp(min=1e-7)).detach().cpu()


def deciding_map(network: nn.Module, image_size: tuple[int, int], layer: str | None = None) -> FeatureMap:
    """The last feature map that the logits depend on, or the one of a submodule that is named.

    A transformer that classifies by its class token has maps after its last attention that decide nothing.
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
