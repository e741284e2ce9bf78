"""Image preprocessing at evaluation time: what a trained network expects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from . import SMALL_IMAGE

Interpolation = Literal["bilinear", "bicubic", "nearest"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)

Shape = tuple[int, int, Interpolation]
"""Size, resize and interpolation of a `Preprocessing`."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize an image, crop its center, scale it to [0, 1] and normalize it.

    Detection, instance and semantic segmentation resize the shorter side to ``size`` and do not crop.
    """

    size: int
    """Pixels per side that the network receives."""
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    std: tuple[float, float, float]
    resize: int
    """Pixels of the shorter side before the center crop."""
    interpolation: Interpolation = "bilinear"
    """Antialiased."""

    @property
    def shape(self) -> Shape:
        """The part that is not normalization: size, resize and interpolation."""
        return self.size, self.resize, self.interpolation


def evaluation_resize(size: int) -> int:
    """Return the shorter side before the center crop: all of a small image, 8/7 of the crop for others."""
    return size if size <= SMALL_IMAGE else round(size * 8 / 7)


def three_numbers(values: Any, name: str) -> tuple[float, float, float]:
    """Return one number per channel; raise ValueError unless they are three finite numbers."""
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"its {name} must be three finite numbers, got {values}")
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def preprocessing_of_timm(config: Any) -> Preprocessing:
    """Return the preprocessing of timm's ``PretrainedCfg``, for its training size."""
    size = int(config.input_size[-1])
    interpolation = config.interpolation
    return Preprocessing(
        size,
        three_numbers(config.mean, "mean"),
        three_numbers(config.std, "std"),
        math.floor(size / (config.crop_pct or 1)),
        # Tensors cannot be resized with timm's other filters, such as lanczos.
        interpolation if interpolation in INTERPOLATIONS else "bicubic",
    )
