"""A detector by its name, on a backbone: ours, or torchvision's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
)

from recursivemix.tasks.backbone import LoadedBackbone, new_backbone
from recursivemix.tasks.settings import Detector

from .one_stage import ATSS, GFL

LEVELS = 5
"""Of every pyramid, as in the papers: strides 8 to 128, or 4 to 64 with Mask R-CNN."""


class ConvolutionLevels(ExtraFPNBlock):  # type: ignore[misc]  # torchvision has no types
    """Coarser levels by convolutions of stride 2, from the coarsest map of the pyramid.

    Args:
        channels: of every level.
        count: how many.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(count))
        for module in self.convolutions:
            assert isinstance(module, nn.Conv2d)
            assert module.bias is not None
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """torchvision's call: the pyramid's maps and names, with the new ones after them."""
        results, names = list(results), list(names)
        for i, convolution in enumerate(self.convolutions):
            last = results[-1]
            results.append(convolution(last if i == 0 else last.relu()))
            names.append(f"p{len(results)}")
        return results, names


class Pyramid(nn.Module):
    """A backbone under torchvision's feature pyramid, five levels with strides that double.

    Args:
        loaded: the backbone.
        channels: of every level; 256 in the papers.
        maps: how many of the backbone's maps, counted from the coarsest, the pyramid begins with.
        pooled: make one coarser level by pooling, as Mask R-CNN does, else as many as are wanted by
            convolutions.
    """

    def __init__(self, loaded: LoadedBackbone, channels: int, maps: int, pooled: bool) -> None:
        super().__init__()
        self.body = loaded.backbone
        self.maps = min(maps, len(self.body.channels))
        own = self.body.strides[-self.maps :]
        extra: ExtraFPNBlock
        count = 1 if pooled else LEVELS - self.maps
        extra = LastLevelMaxPool() if pooled else ConvolutionLevels(channels, count)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels[-self.maps :]), channels, extra)
        self.out_channels = channels
        self.strides = (*own, *(own[-1] * 2**i for i in range(1, count + 1)))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(B, 3, H, W) to (B, ``out_channels``, h, w) by level, float32: boxes are computed from them."""
        maps = self.body(images)[-self.maps :]
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        return OrderedDict((name, level.float()) for name, level in levels.items())


def create_network(settings: Mapping[str, Any]) -> nn.Module:
    """Return the detector of a checkpoint's settings, with random weights."""
    return create_detector(
        settings["detector"],
        new_backbone(settings["backbone"]),
        len(settings["classes"]),
        image_size=settings["image_size"],
        max_size=settings["max_size"],
        channels=settings["channels"],
        depth=settings["depth"],
    )


def create_detector(
    name: Detector,
    loaded: LoadedBackbone,
    num_classes: int,
    *,
    image_size: int | Sequence[int],
    max_size: int,
    channels: int = 256,
    depth: int = 4,
) -> nn.Module:
    """A detector with torchvision's call: losses in training, detections in evaluation.

    Args:
        name: "atss" and "gfl" are ours; "fcos", "retinanet" and "maskrcnn" torchvision's.
        loaded: its backbone; the mean and standard deviation of the images go with it.
        num_classes: K, without background.
        image_size: pixels of the shorter side; of several one is drawn in training, the last else.
        max_size: pixels that the longer side may have.
        channels: of the pyramid and the head.
        depth: convolutions in each tower of the head; "atss" and "gfl" alone.
    """
    prepare: dict[str, Any] = {"image_mean": list(loaded.mean), "image_std": list(loaded.std)}
    sizes = (image_size,) if isinstance(image_size, int) else tuple(image_size)
    if name == "maskrcnn":
        pyramid = Pyramid(loaded, channels, maps=4, pooled=True)
        ratios = ((0.5, 1.0, 2.0),) * len(pyramid.strides)
        anchors = AnchorGenerator(tuple((8 * s,) for s in pyramid.strides), ratios)
        masks: Any = MaskRCNN(
            pyramid, num_classes + 1, sizes, max_size, rpn_anchor_generator=anchors, **prepare
        )
        keep_float(masks.rpn.head, masks.roi_heads.box_predictor, masks.roi_heads.mask_predictor)
        return BackgroundFirst(masks)
    pyramid = Pyramid(loaded, channels, maps=3, pooled=False)
    if name in ("atss", "gfl"):
        transform = GeneralizedRCNNTransform(sizes, max_size, list(loaded.mean), list(loaded.std))
        return (ATSS if name == "atss" else GFL)(pyramid, num_classes, transform, depth=depth)
    detector: Any
    if name == "fcos":
        anchors = AnchorGenerator(tuple((s,) for s in pyramid.strides), ((1.0,),) * len(pyramid.strides))
        detector = FCOS(pyramid, num_classes, sizes, max_size, anchor_generator=anchors, **prepare)
    else:
        octaves = [2 ** (i / 3) for i in range(3)]
        sides = tuple(tuple(int(4 * s * octave) for octave in octaves) for s in pyramid.strides)
        anchors = AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides))
        detector = RetinaNet(pyramid, num_classes, sizes, max_size, anchor_generator=anchors, **prepare)
    keep_float(detector.head)
    made: nn.Module = detector
    return made


class BackgroundFirst(nn.Module):
    """A detector of torchvision whose class 0 is the background, with classes from 0 outside."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """As `OneStageDetector.forward`, with ``masks``: (N, H, W) in targets, (D, H, W) in detections."""
        given = None if targets is None else [t | {"labels": t["labels"] + 1} for t in targets]
        found: Any = self.detector(list(images), given)
        if self.training:
            losses: dict[str, Tensor] = found
            return losses
        return [one | {"labels": one["labels"] - 1, "masks": one["masks"][:, 0] > 0.5} for one in found]


def keep_float(*modules: nn.Module) -> None:
    """Have what boxes are computed from leave in float32: half precision is too coarse for pixels."""
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: _floats(output))


def _floats(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _floats(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_floats(part) for part in value)
    return value
