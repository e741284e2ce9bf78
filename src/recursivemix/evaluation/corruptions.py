"""Six disturbances at five severities, after Hendrycks and Dietterich (arXiv 1903.12261, section 3).

The kinds are theirs; the strengths are this project's, chosen to work at every image size, so accuracies
are for comparing checkpoints with one another and not with CIFAR-10-C or ImageNet-C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

SEVERITIES = {
    "noise": (0.04, 0.06, 0.08, 0.12, 0.18),  # standard deviation, of a range of 1
    "blur": (0.013, 0.02, 0.028, 0.04, 0.06),  # standard deviation, of the image side
    "contrast": (0.7, 0.5, 0.35, 0.22, 0.12),  # of the difference to the image's mean
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, of a range of 1
    "jpeg": (60, 35, 20, 12, 7),  # quality
    "pixelate": (0.7, 0.55, 0.4, 0.3, 0.2),  # of the side
}
"""Strengths of severity 1 to 5."""


def corrupted(images: Tensor, kind: str, severity: int, generator: torch.Generator) -> Tensor:
    """Disturbed copies of (N, 3, H, W) uint8 images.

    Args:
        images: on the CPU.
        kind: a key of `SEVERITIES`.
        severity: 1 to 5.
        generator: of the noise; the other kinds draw nothing.

    Raises:
        ValueError: an unknown kind or severity.
    """
    if kind not in SEVERITIES or not 1 <= severity <= 5:
        raise ValueError(
            f"a corruption is one of {', '.join(SEVERITIES)} at severity 1 to 5, got {kind!r} at {severity}"
        )
    kinds: dict[str, Callable[[Tensor, float], Tensor]] = {
        "noise": partial(_noise, generator=generator),
        "blur": _blur,
        "contrast": _contrast,
        "brightness": _brightness,
        "jpeg": _jpeg,
        "pixelate": _pixelate,
    }
    return kinds[kind](images, SEVERITIES[kind][severity - 1])


def _noise(images: Tensor, deviation: float, *, generator: torch.Generator) -> Tensor:
    return _as_bytes(images + 255 * deviation * torch.randn(images.shape, generator=generator))


def _blur(images: Tensor, share: float) -> Tensor:
    sigma = share * min(images.shape[-2:])
    reach = min(max(1, round(3 * sigma)), (min(images.shape[-2:]) - 1) // 2)
    if reach < 1:  # too small to have a neighbour on both sides
        return images.clone()
    blurred: Tensor = transforms.gaussian_blur(images.float(), 2 * [2 * reach + 1], 2 * [sigma])
    return _as_bytes(blurred)


def _contrast(images: Tensor, share: float) -> Tensor:
    mean = images.float().mean((1, 2, 3), keepdim=True)
    return _as_bytes(mean + share * (images - mean))


def _brightness(images: Tensor, added: float) -> Tensor:
    return _as_bytes(images + 255 * added)


def _jpeg(images: Tensor, quality: float) -> Tensor:
    decoded = []
    for image in images:
        with BytesIO() as file:
            transforms.to_pil_image(image).save(file, "JPEG", quality=int(quality))
            decoded.append(transforms.pil_to_tensor(Image.open(file)))
    return torch.stack(decoded)


def _pixelate(images: Tensor, share: float) -> Tensor:
    height, width = images.shape[-2:]
    small = (max(1, round(share * height)), max(1, round(share * width)))
    coarse = F.interpolate(images.float(), size=small, mode="area")
    return _as_bytes(F.interpolate(coarse, size=(height, width), mode="nearest-exact"))


def _as_bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)
