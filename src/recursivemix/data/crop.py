"""Which region of an image the network receives. It is chosen from the image's size, before decoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from recursivemix.models.preprocessing import Interpolation, evaluation_resize

SCALES = (8, 4, 2)
"""Factors by which a JPEG decoder can reduce an image at little cost."""
LARGEST_RATIO = 100
"""Ratio of the sides above which a center crop cuts off the ends of an image before it resizes it."""


class Crop(NamedTuple):
    """A region of an image, the size it is resized to, and the side of the square at its center."""

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    """(H, W) of the region after resizing."""
    size: int
    """Side of the network's input; the center of the resized region."""
    interpolation: Interpolation = "bilinear"

    @property
    def scale(self) -> int:
        """Largest factor by which the image may be reduced first, so that the region is not enlarged."""
        height, width = self.resized
        if self.interpolation == "nearest":  # takes single pixels
            return 1
        fitting = (f for f in SCALES if self.height // f >= height and self.width // f >= width)
        return next(fitting, 1)

    def apply(self, image: Tensor, scale: int = 1) -> Tensor:
        """Cut the region out of (3, H, W) uint8, an image reduced by ``scale``; resize it, antialiased.

        Returns:
            (3, size, size) uint8, channels last in memory: resizing and the normalization of a batch are
            several times faster on it.
        """
        bottom, right = self.top + self.height, self.left + self.width
        rows, columns = (
            slice(self.top // scale, -(-bottom // scale)),
            slice(self.left // scale, -(-right // scale)),
        )
        region = image[:, rows, columns].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None]
        height, width = self.resized
        if self.height % scale or self.width % scale:  # the last reduced pixels reach beyond the region
            factors = (height * scale / self.height, width * scale / self.width)
            resized = interpolate(
                region,
                scale_factor=[factor * (1 + 1e-7) for factor in factors],  # never one pixel short
                mode=self.interpolation,
                antialias=True,
                recompute_scale_factor=False,
            )[0, :, :height, :width]
        else:
            mode = InterpolationMode(self.interpolation)
            resized = F.resize(region, [height, width], mode, antialias=True)[0]
        return resized if height == width == self.size else F.center_crop(resized, [self.size])


ChooseCrop = Callable[[tuple[int, int]], Crop]
"""Choose the region of an image of (H, W) pixels."""


def center_crop(size: int, resize: int, interpolation: Interpolation, image_size: tuple[int, int]) -> Crop:
    """Resize the shorter side to ``resize`` pixels and take the central ``size`` by ``size`` pixels."""
    longest = LARGEST_RATIO * min(image_size)  # else resizing a strip of pixels takes gigabytes
    height, width = (min(side, longest) for side in image_size)
    top, left = (image_size[0] - height) // 2, (image_size[1] - width) // 2
    shorter = min(height, width)
    resized = (int(resize * height / shorter), int(resize * width / shorter))  # as torchvision rounds
    return Crop(top, left, height, width, resized, size, interpolation)


def evaluation_crop(
    size: int, resize: int | None = None, interpolation: Interpolation = "bilinear"
) -> ChooseCrop:
    """Return the crop of evaluation; see `recursivemix.models.preprocessing.Preprocessing`.

    The shorter side before the crop is ``resize`` pixels; None: see `evaluation_resize`.
    """
    return partial(center_crop, size, evaluation_resize(size) if resize is None else resize, interpolation)


def evaluation_image(
    image: Tensor, size: int, resize: int | None = None, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Return the `evaluation_crop` of a (3, H, W) uint8 image: (3, size, size)."""
    return evaluation_crop(size, resize, interpolation)((image.shape[-2], image.shape[-1])).apply(image)


@cache
def _area_and_ratio(scale: tuple[float, float], ratio: tuple[float, float]) -> v2.RandomResizedCrop:
    return v2.RandomResizedCrop(1, scale, ratio)  # of any size: used for its draws


def random_resized_crop(
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: Interpolation,
    image_size: tuple[int, int],
) -> Crop:
    """Draw a random area and aspect ratio from torch's global generator, as torchvision does.

    If the region is so large that the image is reduced first, its edges are moved to whole pixels of the
    reduced image: by less than one pixel of the result. Full decoding uses the same region.

    Args:
        size: side of the result in pixels.
        scale: range of the share of the area.
        ratio: range of the aspect ratio, width over height.
        interpolation: of the resize.
        image_size: (H, W) of the image.
    """
    drawn = _area_and_ratio(scale, ratio).make_params([torch.empty(3, *image_size, device="meta")])
    top, left, height, width = (int(drawn[name]) for name in ("top", "left", "height", "width"))
    crop = Crop(top, left, height, width, (size, size), size, interpolation)
    f = crop.scale
    return crop._replace(top=top // f * f, left=left // f * f, height=height // f * f, width=width // f * f)
