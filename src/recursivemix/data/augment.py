"""Augmentation of images before they are mixed. First draw, then apply.

Small images in memory are cropped, mirrored and normalized per batch on the training device. Large ones are
decoded and cropped one by one in loader workers (torchvision v2), and normalized per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from recursivemix.models import SMALL_IMAGE
from recursivemix.models.preprocessing import Interpolation

from .crop import ChooseCrop, center_crop, random_resized_crop
from .images import ImageData
from .names import Crop
from .settings import AugmentationSettings

# Principal components of the RGB values of ImageNet's training pixels in [0, 1] (AlexNet, NeurIPS 2012,
# section 4.1; values as in the usual training scripts), one per column, times their standard deviations.
LIGHTING = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
) * torch.tensor([0.2175, 0.0188, 0.0045])


@dataclass(frozen=True, kw_only=True)
class Augmentation(AugmentationSettings):
    """Augmentation of training images: the settings of a run, with what depends on its data.

    Args:
        size: side of the network's input in pixels.
        mean, std: of the channels, RGB in [0, 1].
        padding: largest shift of ``crop`` "pad", in pixels.
        resize: shorter side before the center crop of evaluation; None: see `evaluation_resize`.
        interpolation: of every resize.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Crop
    flip: bool = True
    padding: int = 0
    resize: int | None = None
    interpolation: Interpolation = "bilinear"

    @property
    def one_by_one(self) -> bool:
        """Whether images are augmented one by one: by more than shifts, mirroring and lighting."""
        shares = (self.color_jitter, self.grayscale, self.blur, self.random_erasing)
        policy = self.auto_augment != "none"
        return self.crop == "resized" or policy or self.vertical_flip or any(shares)


def augmentation_of(data: ImageData, settings: AugmentationSettings | None = None) -> Augmentation:
    """Return the augmentation of a data set; settings that are None depend on its images.

    Raises:
        ValueError: options of ``--crop resized`` for another crop.
    """
    settings = AugmentationSettings() if settings is None else settings
    small = data.image_size <= SMALL_IMAGE
    values = {name: getattr(settings, name) for name in AugmentationSettings.__dataclass_fields__}
    values["crop"] = settings.crop or ("pad" if small else "resized")
    values["flip"] = data.flip if settings.flip is None else settings.flip
    for name in ("crop_scale", "crop_ratio"):
        default = AugmentationSettings.__dataclass_fields__[name].default
        if values["crop"] != "resized" and getattr(settings, name) != default:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} does not apply to --crop {values['crop']}: leave it out, or use --crop resized"
            )
    return Augmentation(
        size=data.image_size,
        mean=data.mean,
        std=data.std,
        # An eighth of the side: 4 pixels for CIFAR, as in He et al. section 4.2.
        padding=data.image_size // 8,
        resize=data.resize,
        interpolation=data.interpolation,
        **values,
    )


# -- one image, in a loader worker ------------------------------------------------------------------


def training_crop(augmentation: Augmentation) -> ChooseCrop:
    """Return the crop of training; a random one is drawn from torch's global generator."""
    size, mode = augmentation.size, augmentation.interpolation
    if augmentation.crop == "resized":
        ranges = (augmentation.crop_scale, augmentation.crop_ratio)
        return partial(random_resized_crop, size, *ranges, mode)
    return partial(center_crop, size, size, mode)


class Mirror(nn.Module):
    """Mirror half of the images; torchvision's transform takes ten times as long for the same draw."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flip(-1) if torch.rand(1) < 0.5 else image


class NoiseErasing(v2.RandomErasing):  # type: ignore[misc]  # torchvision has no types
    """Random erasing (arXiv 1708.04896) of bytes, by noise with the data's mean and deviation."""

    def __init__(self, share: float, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(p=share, value="random")
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the rectangle and its content."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        if params["v"] is not None:
            noise = 255 * (self.mean + self.std * params["v"])
            params["v"] = noise.round().clamp(0, 255).byte()
        return params


def training_transform(augmentation: Augmentation) -> v2.Transform:
    """Return what follows the crop, of (3, size, size) uint8; it draws from torch's global generator."""
    size = augmentation.size
    steps: list[nn.Module] = []
    if augmentation.crop == "pad":
        steps.append(v2.RandomCrop(size, padding=augmentation.padding))
    if augmentation.flip:
        steps.append(Mirror())
    if augmentation.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    if augmentation.auto_augment != "none":
        steps.append(policy_transform(augmentation))
    if augmentation.color_jitter:
        steps.append(v2.ColorJitter(*[augmentation.color_jitter] * 3))
    if augmentation.grayscale:
        steps.append(v2.RandomGrayscale(augmentation.grayscale))
    if augmentation.blur:
        steps.append(v2.RandomApply([gaussian_blur(size)], augmentation.blur))
    if augmentation.random_erasing:
        steps.append(NoiseErasing(augmentation.random_erasing, augmentation.mean, augmentation.std))
    return v2.Compose(steps or [v2.Identity()])


def policy_transform(augmentation: Augmentation) -> v2.Transform:
    """Return the transform of ``--auto-augment``; where an image is shifted, the mean colour appears."""
    fill: Any = [round(255 * value) for value in augmentation.mean]
    # torchvision cannot rotate or shear tensors by bicubic interpolation.
    mode = "nearest" if augmentation.interpolation == "nearest" else "bilinear"
    options: dict[str, Any] = {"interpolation": InterpolationMode(mode), "fill": fill}
    if augmentation.auto_augment == "autoaugment":  # arXiv 1805.09501
        return v2.AutoAugment(**options)
    if augmentation.auto_augment == "randaugment":  # arXiv 1909.13719
        return v2.RandAugment(augmentation.operations, augmentation.magnitude, **options)
    if augmentation.auto_augment == "trivialaugment":  # arXiv 2103.10158
        return v2.TrivialAugmentWide(**options)
    if augmentation.auto_augment == "augmix":  # arXiv 1912.02781
        return v2.AugMix(**options)
    # DeiT III, arXiv 2204.07118, section 3: one of the three for each image.
    return v2.RandomChoice(
        [v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), gaussian_blur(augmentation.size)]
    )


def gaussian_blur(size: int) -> v2.Transform:
    """Return a blur of 0.1 to 2 pixels of images of ``size`` pixels."""
    reach = min(6, (size - 1) // 2)  # three deviations
    return v2.GaussianBlur(2 * reach + 1, (0.1, 2.0))


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
    batch, channels, height, width = images.shape
    scale, offset = (factor.repeat(width) for factor in colours)  # whole rows: three at a time are slow
    if shift is not None:
        offset = offset + (255 * shift * colours.scale).repeat(1, width)[:, None, :]  # (B, 1, 3 W)
    # One new tensor: memory that is written for the first time costs more than the arithmetic.
    pixels = torch.empty(batch, height, width, channels, device=images.device)
    pixels.copy_(images.permute(0, 2, 3, 1))
    rows = pixels.view(batch, height, width * channels)
    torch.addcmul(offset, rows, scale, out=rows)
    return pixels.permute(0, 3, 1, 2)
