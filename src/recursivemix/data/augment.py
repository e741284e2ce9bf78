"""Augmentation of images before they are mixed. First draw, then apply.

Small images in memory are cropped, mirrored and normalized per batch on the training device. Large ones are
decoded and cropped one by one in loader workers (torchvision v2), and normalized per batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from recursivemix.models import SMALL_IMAGE
from recursivemix.models.preprocessing import Interpolation, evaluation_resize

from .crop import ChooseCrop, center_crop, random_resized_crop
from .images import ImageData
from .names import Crop

# Principal components of the RGB values of ImageNet's training pixels in [0, 1] (AlexNet, NeurIPS 2012,
# section 4.1; values as in the usual training scripts), one per column, times their standard deviations.
LIGHTING = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * torch.tensor([0.2175, 0.0188, 0.0045])


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images.

    Args:
        size: side of the network's input in pixels.
        mean, std: of the channels, RGB in [0, 1].
        crop: "pad" shifts the image by up to ``padding`` pixels over black borders; "resized" takes a
            random area and aspect ratio (RandomResizedCrop); "none" takes the center.
        padding: largest shift in pixels, for "pad".
        scale: smallest share of the area, for "resized".
        flip: mirror half of the images.
        color_jitter: largest relative change of brightness, contrast and saturation.
        lighting: standard deviation of the PCA lighting noise.
        resize: shorter side before the center crop of evaluation; None: see `evaluation_resize`.
        interpolation: of every resize.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop
    padding: int = 0
    scale: float = 0.08
    flip: bool = True
    color_jitter: float = 0.0
    lighting: float = 0.0
    resize: int | None = None
    interpolation: Interpolation = "bilinear"


def augmentation_of(
    data: ImageData,
    *,
    crop: Crop | None = None,
    flip: bool | None = None,
    color_jitter: float = 0.0,
    lighting: float = 0.0,
    scale: float = 0.08,
) -> Augmentation:
    """Return the augmentation of a data set; options that are None depend on its image size."""
    small = data.image_size <= SMALL_IMAGE
    return Augmentation(
        size=data.image_size,
        mean=data.mean,
        std=data.std,
        crop=crop or ("pad" if small else "resized"),
        # An eighth of the side: 4 pixels for CIFAR, as in He et al. section 4.2.
        padding=data.image_size // 8,
        scale=scale,
        flip=data.flip if flip is None else flip,
        color_jitter=color_jitter,
        lighting=lighting,
        resize=data.resize,
        interpolation=data.interpolation,
    )


# -- one image, in a loader worker ------------------------------------------------------------------


def training_crop(augmentation: Augmentation) -> ChooseCrop:
    """Return the crop of training; a random one is drawn from torch's global generator."""
    size, mode = augmentation.size, augmentation.interpolation
    if augmentation.crop == "resized":
        return partial(random_resized_crop, size, augmentation.scale, mode)
    return partial(center_crop, size, size, mode)


def training_transform(augmentation: Augmentation) -> v2.Transform:
    """Return what follows the crop, of (3, size, size) uint8; it draws from torch's global generator."""
    steps: list[v2.Transform] = []
    if augmentation.crop == "pad":
        steps.append(v2.RandomCrop(augmentation.size, padding=augmentation.padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.color_jitter:
        steps.append(v2.ColorJitter(*[augmentation.color_jitter] * 3))
    return v2.Compose(steps or [v2.Identity()])


def evaluation_transform(
    size: int, resize: int | None = None, interpolation: Interpolation = "bilinear"
) -> v2.Transform:
    """Return the resize and center crop of evaluation, of (3, H, W) uint8 images; see `Preprocessing`."""
    side = evaluation_resize(size) if resize is None else resize
    shrink = v2.Resize(side, InterpolationMode(interpolation), antialias=True)
    return v2.Compose([shrink, v2.CenterCrop(size)])


# -- a batch, on the training device ----------------------------------------------------------------


class CropDraw(NamedTuple):
    """Position of the crop of each image of a batch, and whether it is mirrored."""

    top: Tensor
    """(B,) int64, 0 to 2 padding."""
    left: Tensor
    """(B,) int64, 0 to 2 padding."""
    mirrored: Tensor
    """(B,) bool."""


def draw_crops(count: int, padding: int, flip: bool, generator: torch.Generator) -> CropDraw:
    """Draw uniform positions, and mirror half of the images."""
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return CropDraw(top, left, mirrored if flip else torch.zeros_like(mirrored))


def pack(images: Tensor, padding: int = 0) -> Tensor:
    """Pack (N, 3, H, W) uint8 into (N, H + 2 padding, W + 2 padding) int32 with black borders.

    One number per pixel is copied several times faster than three planes of bytes.
    """
    n, _, height, width = images.shape
    packed = torch.zeros(n, height + 2 * padding, width + 2 * padding, 4, dtype=torch.uint8)
    inside = packed[:, padding : padding + height, padding : padding + width]
    inside[..., :3] = images.permute(0, 2, 3, 1)
    return packed.view(torch.int32)[..., 0]


def cut_out(packed: Tensor, indices: Tensor, draw: CropDraw, size: int) -> Tensor:
    """Crop each chosen image to ``size`` by ``size`` pixels.

    Args:
        packed: (N, H, W) int32 from `pack`.
        indices: (B,) int64, the chosen images.
        draw: positions of the crops, and which are mirrored.
        size: side of the crops in pixels.

    Returns:
        (B, size, size) int32.
    """
    height, width = packed.shape[1:]
    steps = torch.arange(size, device=indices.device)
    columns = torch.where(draw.mirrored[:, None], size - 1 - steps, steps) + draw.left[:, None]
    rows = steps + draw.top[:, None]  # (B, size)
    start = indices * (height * width)
    places = (start[:, None] + rows * width)[:, :, None] + columns[:, None, :]  # (B, size, size)
    return packed.view(-1).index_select(0, places.view(-1)).view(places.shape)


def unpack(pixels: Tensor) -> Tensor:
    """Unpack (B, H, W) int32 to (B, 3, H, W) uint8, a view with the channels last in memory."""
    return pixels.view(torch.uint8).view(*pixels.shape, 4)[..., :3].permute(0, 3, 1, 2)


def draw_lighting(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Draw (count, 3) shifts of RGB in [0, 1]."""
    return strength * torch.randn(count, 3, generator=generator) @ LIGHTING.T


class ColourScale(NamedTuple):
    """Factors of the normalization of bytes: ``byte * scale + offset``, per channel."""

    scale: Tensor
    """(3,)"""
    offset: Tensor
    """(3,)"""


def colour_scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> ColourScale:
    """Return the factors for mean and deviation of RGB in [0, 1]; this synchronizes the device."""
    deviation = torch.tensor(std)
    return ColourScale((1 / (255 * deviation)).to(device), (-torch.tensor(mean) / deviation).to(device))


def normalise(images: Tensor, colours: ColourScale, shift: Tensor | None = None) -> Tensor:
    """Normalize (B, 3, H, W) uint8 to float32, channels last, after adding (B, 3) ``shift`` in [0, 1]."""
    scale, offset = colours
    if shift is not None:
        offset = (offset + 255 * shift * scale)[:, None, None, :]  # (B, 1, 1, 3)
    last = images.permute(0, 2, 3, 1).float().contiguous()  # (B, H, W, 3)
    return torch.addcmul(offset, last, scale).permute(0, 3, 1, 2)
