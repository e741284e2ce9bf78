"""What a trained network predicts for one image, by task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ClassPrediction:
    """The most probable classes of an image, the best first."""

    name: str
    """File name of the image, or its place in the list of images."""
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Of ``labels``."""
    features: Tensor | None = None
    """(C,) float32: the input of the classifier; of several networks, one after the other."""


@dataclass(frozen=True)
class BoxPrediction:
    """The objects detected in an image, D of them, the best first."""

    name: str
    size: tuple[int, int]
    """(H, W) of the image."""
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    boxes: Tensor
    """(D, 4) float32 ``(x1, y1, x2, y2)`` pixels of the image."""
    indices: Tensor
    """(D,) int64: class index of each label."""
    masks: Tensor | None = None
    """(D, H, W) bool, from instance segmentation."""
    features: Tensor | None = None
    """(C,) float32: the mean of the backbone's last feature map."""


@dataclass(frozen=True)
class MapPrediction:
    """The class of every pixel of an image."""

    name: str
    size: tuple[int, int]
    """(H, W) of the image."""
    label_map: Tensor
    """(H, W) int64 class indices."""
    shares: dict[str, float]
    """Share of the pixels of every class that occurs, the largest first."""
    features: Tensor | None = None
    """(C,) float32: the mean of the backbone's last feature map."""


Prediction = ClassPrediction | BoxPrediction | MapPrediction
