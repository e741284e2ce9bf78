"""Validation of batches, draws and settings. Every function raises ValueError, and says how to fix it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .draw import Draw
from .paste import INTERPOLATIONS, Interpolation

# -- a batch ------------------------------------------------------------------------------------------


def check_images(
    images: Tensor, targets: Tensor, masks: Tensor | None, spatial_dims: tuple[int, ...]
) -> None:
    """Check kind, shape and device of images, and that of the masks that go with them."""
    for name, value in (("images", images), ("targets", targets), ("masks", masks)):
        if value is None and name == "masks":
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
        if value.device != images.device:
            raise ValueError(
                f"{name} are on {value.device}, images on {images.device}: move the whole batch first"
            )
    least = max(2 + len(spatial_dims), 1 - min(spatial_dims))
    if images.dim() < least or images.numel() == 0:
        raise ValueError(
            f"images must be a batch with channels, (B, C, H, W) or more dimensions, none empty, for "
            f"spatial_dims={spatial_dims}; got shape {tuple(images.shape)}"
        )
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise ValueError(
            f"images must be floating or uint8, got {images.dtype}; convert with .float() or .byte()"
        )
    if masks is None:
        return
    expected = (images.shape[0], *(images.shape[d] for d in spatial_dims))
    if masks.shape != expected or masks.is_floating_point() or masks.is_complex():
        raise ValueError(
            f"masks must be integers of shape {expected}, as the images, got {masks.dtype} of shape "
            f"{tuple(masks.shape)}"
        )


def check_labels(targets: Tensor, batch_size: int, num_classes: int) -> None:
    """Check shape and dtype of labels, and on the CPU their values; elsewhere reading them would wait."""
    soft = targets.shape == (batch_size, num_classes)
    indices = targets.shape == (batch_size,) and not targets.is_floating_point()
    if not (soft or indices) or targets.is_complex():
        raise ValueError(
            f"targets must be ({batch_size},) class indices or ({batch_size}, {num_classes}) one-hot, soft "
            f"or multi-hot labels for {batch_size} images and num_classes={num_classes}, got "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    if soft or targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    values = targets.tolist()
    if min(values) < 0 or max(values) >= num_classes:
        raise ValueError(
            f"class indices must be in 0..{num_classes - 1} for num_classes={num_classes}, got "
            f"{min(values)}..{max(values)}"
        )


def check_indices(indices: Tensor | None, batch_size: int) -> None:
    """Check the positions of samples in the data set."""
    if indices is None:
        return
    if indices.shape != (batch_size,) or indices.dtype != torch.int64 or indices.device.type != "cpu":
        raise ValueError(
            f"indices must be ({batch_size},) int64 on the CPU, the position of each image in the data "
            f"set; got {indices.dtype} of shape {tuple(indices.shape)} on {indices.device}"
        )


def check_draw(
    draw: Draw, mixer: str, fields: tuple[str, ...], batch_size: int, size: tuple[int, ...]
) -> None:
    """Check that a draw to replay has a mixer's fields and fits the batch.

    Args:
        draw: The draw.
        mixer: Name of the mixer's class, for messages.
        fields: The fields of `Draw` that this mixer makes.
        batch_size: B.
        size: The mixed dimensions of the images, (H, W).
    """
    filled = tuple(name for name, value in draw._asdict().items() if value is not None)
    if filled and filled != fields:
        raise ValueError(
            f"{mixer} draws {' and '.join(fields) or 'nothing'}, got a draw of {' and '.join(filled)}: was "
            f"it another mixer's?"
        )
    d = len(size)
    row_shapes: dict[str, tuple[int, ...]] = {"boxes": (2 * d,), "weights": size}
    limits = {
        "boxes": torch.tensor(size[::-1]),
        "partners": torch.tensor(batch_size - 1),
        "layer": torch.tensor(torch.iinfo(torch.int64).max),
        "noise_seed": torch.tensor(torch.iinfo(torch.int64).max),
    }
    for name in filled:
        value: Tensor = getattr(draw, name)
        counts = {"partners": (batch_size,), "layer": (1,), "noise_seed": (1,)}.get(name, (1, batch_size))
        shapes = [(n, *row_shapes.get(name, ())) for n in counts]
        kind = torch.float32 if name in ("lam", "weights") else torch.int64
        if value.shape not in shapes or value.device.type != "cpu" or value.dtype != kind:
            raise ValueError(
                f"draw.{name} does not fit a batch of {batch_size}: got {value.dtype}, shape "
                f"{tuple(value.shape)}, {value.device}; make one with mixer.draw({batch_size}, {size})"
            )
        low, high = (value[:, :d], value[:, d:]) if name == "boxes" else (value, value)
        limit = limits.get(name, torch.tensor(1.0))
        if (low < 0).any() or (high > limit).any() or (high < low).any():
            raise ValueError(
                f"draw.{name} must lie inside the image of size {size}, the batch of {batch_size}, or "
                f"[0, 1]; replay a draw on a batch of the size it was drawn for"
            )


def check_logits(logits: Tensor | None, shape: torch.Size) -> Tensor:
    """Return the main head's logits if they have the shape of the targets."""
    if logits is None or logits.shape != shape:
        raise ValueError(
            f"remember needs the main head's logits of shape {tuple(shape)}, got "
            f"{None if logits is None else tuple(logits.shape)}"
        )
    return logits


# -- settings -----------------------------------------------------------------------------------------


def check_spatial_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the mixed dimensions as a tuple if they are negative and in ascending order."""
    dims = tuple(dims)
    if not 1 <= len(dims) <= 3 or any(d >= 0 for d in dims) or sorted(set(dims)) != list(dims):
        raise ValueError(
            f"spatial_dims must be 1 to 3 different negative dimensions in ascending order, as in "
            f"(-2, -1), got {dims}"
        )
    return dims


def in_range(name: str, value: float, low: float, high: float) -> float:
    """Return the value as a float if it lies in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
    return float(value)


def beta_parameter(alpha: float) -> float:
    """Return ``alpha`` as a float if it is a parameter of a Beta distribution."""
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is a Beta parameter and must be above 0 and finite, got {alpha}")
    return float(alpha)


def loss_weight(name: str, value: float) -> float:
    """Return the value as a float if it can weigh a loss."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is the weight of a loss and must be 0 or more, got {value}")
    return float(value)


def known_interpolation(value: Interpolation) -> Interpolation:
    """Return the value if it is the name of an interpolation."""
    if value not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {value!r}")
    return value
