"""Six corruptions at five severities, after Hendrycks and Dietterich (arXiv 1903.12261, section 3).

The kinds are theirs. The strengths are this project's, so that they suit every image size: compare the
accuracies between checkpoints, not with CIFAR-10-C or ImageNet-C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from recursivemix.data.order import generator_of

from .probe import Curve, Metric, Point, Probe, Record
from .subject import Subject

SEVERITIES = {
    "noise": (0.04, 0.06, 0.08, 0.12, 0.18),  # standard deviation, of a value range of 1
    "blur": (0.013, 0.02, 0.028, 0.04, 0.06),  # standard deviation, as a share of the image side
    "contrast": (0.7, 0.5, 0.35, 0.22, 0.12),  # factor on the difference to the image mean
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),  # added, of a value range of 1
    "jpeg": (60, 35, 20, 12, 7),  # JPEG quality
    "pixelate": (0.7, 0.55, 0.4, 0.3, 0.2),  # share of the side that is kept
}
"""Strength of severities 1 to 5."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure the accuracy at each kind and severity."""
    images, labels = subject.subset.images, subject.subset.labels
    accuracy = {
        kind: [
            subject.predictor.accuracy(
                corrupted(images, kind, severity, generator_of(subject.seed, kind, severity)), labels
            )
            for severity in range(1, 6)
        ]
        for kind in SEVERITIES
    }
    mean = fmean(value for values in accuracy.values() for value in values)
    return {"corruptions": accuracy, "corruption_mean": mean, "corruption_images": len(images)}


def corrupted(images: Tensor, kind: str, severity: int, generator: torch.Generator) -> Tensor:
    """Return corrupted copies of images.

    Args:
        images: (N, 3, H, W) uint8 on the CPU.
        kind: a key of `SEVERITIES`.
        severity: 1 to 5.
        generator: source of the noise; the other kinds are deterministic.

    Raises:
        ValueError: an unknown kind or severity.
    """
    if kind not in SEVERITIES or not 1 <= severity <= 5:
        raise ValueError(
            f"kind must be one of {', '.join(SEVERITIES)} and severity 1 to 5, got {kind!r} and {severity}"
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
    if reach < 1:  # too small for a neighbour on both sides
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


def by_severity(record: Record) -> list[Point]:
    """Return the accuracy at each severity, averaged over kinds."""
    kinds = record.get("corruptions") or {}
    return [
        Point(str(severity), severity, fmean(values))
        for severity, values in enumerate(zip(*kinds.values(), strict=True), start=1)
    ]


def by_kind(record: Record) -> list[Point]:
    """Return the accuracy under each kind, averaged over severities."""
    return [Point(kind, kind, fmean(values)) for kind, values in (record.get("corruptions") or {}).items()]


PROBE = Probe(
    name="corruption",
    measures=f"accuracy under {', '.join(SEVERITIES)}, each at five severities",
    cost=f"{5 * len(SEVERITIES)} forward passes over the subset",
    run=run,
    metrics=(
        Metric(
            "corruption_mean",
            "Accuracy under corruption",
            ("corruption_mean",),
            drawn=True,
            short="under corruption, %",
        ),
    ),
    curves=(
        Curve("Corruption", "severity", "Averaged over the kinds of corruption.", by_severity),
        Curve("Corruption by kind", "", "Averaged over the five severities.", by_kind),
    ),
    section="Robustness",
)
