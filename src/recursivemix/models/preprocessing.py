"""Image preprocessing at evaluation time: what a trained network expects."""

from __future__ import annotations

from dataclasses import dataclass

from . import SMALL_IMAGE


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
    interpolation: str = "bilinear"
    """Antialiased."""


def evaluation_resize(size: int) -> int:
    """Return the shorter side before the center crop: all of a small image, 8/7 of the crop for others."""
    return size if size <= SMALL_IMAGE else round(size * 8 / 7)
