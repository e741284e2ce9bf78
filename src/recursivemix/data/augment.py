"""What happens to an image before it is mixed. First draw, then apply.

Two ways lead to a batch, with the same meaning: small images are cropped, mirrored and normalised by the
batch, on the training device, from one tensor that holds them all; large ones are decoded and cropped one
by one in loader processes (torchvision v2) and normalised by the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from recursivemix.models.create import SMALL_IMAGE
from recursivemix.models.preprocessing import evaluation_resize

from .images import ImageData
from .names import Crop

# Principal components of the RGB values of ImageNet's training pixels in [0, 1] (AlexNet, NeurIPS 2012,
# section 4.1, with the values that the field's training scripts share): a row of deviations a component.
LIGHTING = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * torch.tensor([0.2175, 0.0188, 0.0045])


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Args:
        size: pixels a side that the network gets.
        mean, std: of the channels, RGB in [0, 1].
        crop: "pad" moves the image by up to ``padding`` pixels over black; "resized" is a random share of
            the area at a random aspect (RandomResizedCrop); "none" takes the middle.
        padding: pixels, for "pad".
        scale: least share of the area, for "resized".
        flip: mirror half of the images.
        color_jitter: brightness, contrast and saturation vary by this share.
        lighting: standard deviation of the PCA lighting noise.
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


def augmentation_of(
    data: ImageData,
    *,
    crop: Crop | None = None,
    flip: bool | None = None,
    color_jitter: float = 0.0,
    lighting: float = 0.0,
    scale: float = 0.08,
) -> Augmentation:
    """The augmentation of a data set: what is asked for, and what its size suggests for the rest."""
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
    )


# -- one image, in a loader process -----------------------------------------------------------------


def training_transform(augmentation: Augmentation) -> v2.Transform:
    """(3, H, W) uint8 of any size to (3, size, size) uint8; draws from torch's global generator."""
    size = augmentation.size
    steps: list[v2.Transform]
    if augmentation.crop == "resized":
        steps = [v2.RandomResizedCrop(size, scale=(augmentation.scale, 1.0), antialias=True)]
    else:
        steps = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
        if augmentation.crop == "pad":
            steps.append(v2.RandomCrop(size, padding=augmentation.padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.color_jitter:
        steps.append(v2.ColorJitter(*[augmentation.color_jitter] * 3))
    return v2.Compose(steps)


def evaluation_transform(size: int) -> v2.Transform:
    """Return the resize and center crop of evaluation, of (3, H, W) uint8 images; see `Preprocessing`."""
    return v2.Compose([v2.Resize(evaluation_resize(size), antialias=True), v2.CenterCrop(size)])


# -- a batch, on the training device ----------------------------------------------------------------


class CropDraw(NamedTuple):
    """Where each image of a batch is cut out, and whether it is mirrored."""

    top: Tensor
    """(B,) int64, 0 to 2 padding."""
    left: Tensor
    """(B,) int64, 0 to 2 padding."""
    mirrored: Tensor
    """(B,) bool."""


def draw_crops(count: int, padding: int, flip: bool, generator: torch.Generator) -> CropDraw:
    """Uniform places, and every second image mirrored."""
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5
    return CropDraw(top, left, mirrored if flip else torch.zeros_like(mirrored))


def pack(images: Tensor, padding: int = 0) -> Tensor:
    """(N, 3, H, W) uint8 to (N, H + 2 padding, W + 2 padding) int32, one number a pixel, black around.

    A pixel then moves as one number, which is several times faster than three planes of bytes.
    """
    n, _, height, width = images.shape
    packed = torch.zeros(n, height + 2 * padding, width + 2 * padding, 4, dtype=torch.uint8)
    inside = packed[:, padding : padding + height, padding : padding + width]
    inside[..., :3] = images.permute(0, 2, 3, 1)
    return packed.view(torch.int32)[..., 0]


def cut_out(packed: Tensor, indices: Tensor, draw: CropDraw, size: int) -> Tensor:
    """Cut one window of ``size`` pixels a side out of each chosen image.

    Args:
        packed: (N, H, W) int32 from `pack`.
        indices: (B,) int64, which images.
        draw: where, and which are mirrored.

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
    """(B, H, W) int32 back to (B, 3, H, W) uint8, a view with the channels last in memory."""
    return pixels.view(torch.uint8).view(*pixels.shape, 4)[..., :3].permute(0, 3, 1, 2)


def draw_lighting(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """(count, 3) shifts of RGB in [0, 1]."""
    return strength * torch.randn(count, 3, generator=generator) @ LIGHTING.T


class ColourScale(NamedTuple):
    """``pixel * scale + offset`` makes a byte a normalised number, for each channel."""

    scale: Tensor
    """(3,)"""
    offset: Tensor
    """(3,)"""


def colour_scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> ColourScale:
    """From mean and deviation of RGB in [0, 1]; made once, since it waits for the device."""
    deviation = torch.tensor(std)
    return ColourScale((1 / (255 * deviation)).to(device), (-torch.tensor(mean) / deviation).to(device))


def normalise(images: Tensor, colours: ColourScale, shift: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) uint8 to normalised float32, channels_last; ``shift`` (B, 3) goes to RGB in [0, 1]."""
    scale, offset = colours
    if shift is not None:
        offset = (offset + 255 * shift * scale)[:, None, None, :]  # (B, 1, 1, 3)
    last = images.permute(0, 2, 3, 1).float().contiguous()  # (B, H, W, 3)
    return torch.addcmul(offset, last, scale).permute(0, 3, 1, 2)
