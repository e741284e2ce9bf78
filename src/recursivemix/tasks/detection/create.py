"""Create a detector by name, on a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from recursivemix.tasks.backbone import LoadedBackbone, new_backbone

from .names import load_detector


@dataclass(frozen=True)
class DetectorOptions:
    """Sizes of a detector's images and layers.

    Args:
        image_size: shorter side of the images in pixels; in training one is drawn for each batch, and
            evaluation uses the last.
        max_size: largest longer side in pixels.
        channels: channels of the pyramid and of the head.
        depth: convolutions in each tower of the head; torchvision's detectors ignore it.
    """

    image_size: tuple[int, ...]
    max_size: int
    channels: int = 256
    depth: int = 4


def create_detector(
    name: str,
    loaded: LoadedBackbone,
    num_classes: int,
    *,
    image_size: int | Sequence[int],
    max_size: int,
    channels: int = 256,
    depth: int = 4,
) -> nn.Module:
    """Create a detector with torchvision's call: losses in training, detections in evaluation.

    Args:
        name: a name in `recursivemix.tasks.detection.names.DETECTORS`.
        loaded: its backbone, with the mean and standard deviation of the images.
        num_classes: number of classes K, without background.
        image_size, max_size, channels, depth: see `DetectorOptions`.

    Raises:
        ValueError: unknown name.
    """
    sizes = (image_size,) if isinstance(image_size, int) else tuple(image_size)
    detector: nn.Module = load_detector(name)(
        loaded, num_classes, DetectorOptions(sizes, max_size, channels, depth)
    )
    return detector


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
