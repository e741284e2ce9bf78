"""torchvision's FCOS, RetinaNet and Mask R-CNN on our backbones, with the anchors of their papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from recursivemix.tasks.backbone import LoadedBackbone

from .create import DetectorOptions
from .pyramid import Pyramid

RATIOS = (0.5, 1.0, 2.0)
"""Aspect ratios of the anchors of RetinaNet and Mask R-CNN."""


def fcos(loaded: LoadedBackbone, num_classes: int, options: DetectorOptions) -> nn.Module:
    """Create torchvision's FCOS (Tian et al., arXiv 1904.01355): no anchors."""
    pyramid = Pyramid(loaded, options.channels)
    anchors = _anchors([(stride,) for stride in pyramid.strides], (1.0,))
    detector: nn.Module = FCOS(
        pyramid, num_classes, anchor_generator=anchors, **_transform(loaded, options)
    )
    _return_float(detector.get_submodule("head"))
    return detector


def retinanet(loaded: LoadedBackbone, num_classes: int, options: DetectorOptions) -> nn.Module:
    """Create torchvision's RetinaNet (Lin et al., arXiv 1708.02002): nine anchors per location."""
    pyramid = Pyramid(loaded, options.channels)
    octaves = [2 ** (i / 3) for i in range(3)]
    anchors = _anchors([tuple(int(4 * s * octave) for octave in octaves) for s in pyramid.strides], RATIOS)
    detector: nn.Module = RetinaNet(
        pyramid, num_classes, anchor_generator=anchors, **_transform(loaded, options)
    )
    _return_float(detector.get_submodule("head"))
    return detector


def mask_rcnn(loaded: LoadedBackbone, num_classes: int, options: DetectorOptions) -> nn.Module:
    """Create torchvision's Mask R-CNN (He et al., arXiv 1703.06870): two stages, boxes and masks."""
    pyramid = Pyramid(loaded, options.channels, maps=4, pooled=True)
    anchors = _anchors([(8 * stride,) for stride in pyramid.strides], RATIOS)
    channels = options.channels
    heads = {
        "mask_head": MaskRCNNHeads(channels, (channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
        "box_head": TwoMLPHead(channels * 7**2, 4 * channels),
        "box_predictor": FastRCNNPredictor(4 * channels, num_classes + 1),
    }
    detector: nn.Module = MaskRCNN(
        pyramid, rpn_anchor_generator=anchors, **heads, **_transform(loaded, options)
    )
    for name in ("rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor"):
        _return_float(detector.get_submodule(name))
    return ForegroundClasses(detector)


class ForegroundClasses(nn.Module):
    """Convert between classes counted from 0 and a detector whose class 0 is the background."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses or detections, see `OneStageDetector.forward`.

        Targets have ``masks`` (N, H, W) too, detections (D, H, W) bool.
        """
        shifted = None if targets is None else [t | {"labels": t["labels"] + 1} for t in targets]
        output: Any = self.detector(list(images), shifted)
        if self.training:
            losses: dict[str, Tensor] = output
            return losses
        return [one | {"labels": one["labels"] - 1, "masks": one["masks"][:, 0] > 0.5} for one in output]


def _anchors(sides: Sequence[tuple[int, ...]], ratios: tuple[float, ...]) -> AnchorGenerator:
    return AnchorGenerator(tuple(sides), (ratios,) * len(sides))


def _transform(loaded: LoadedBackbone, options: DetectorOptions) -> dict[str, Any]:
    """Return the arguments for resizing and normalization that torchvision's detectors share."""
    return {
        "min_size": options.image_size,
        "max_size": options.max_size,
        "image_mean": list(loaded.mean),
        "image_std": list(loaded.std),
    }


def _return_float(module: nn.Module) -> None:
    """Convert a module's outputs to float32: half precision is too coarse for pixel coordinates."""
    module.register_forward_hook(lambda module, inputs, output: _float(output))


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _float(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_float(part) for part in value)
    return value
