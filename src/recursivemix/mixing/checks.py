"""Validation of batches, draws and settings. Every function raises ValueError, and says how to fix it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from .draw import Draw
from .paste import INTERPOLATIONS, Interpolation

Name = TypeVar("Name", bound=str)
FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Floating dtypes that torch can compute with; not float8."""

# -- a batch ------------------------------------------------------------------------------------------


def check_images(
    images: Tensor,
    targets: Tensor,
    masks: Tensor | None,
    spatial_dims: tuple[int, ...],
    *,
    inplace: bool = False,
) -> None:
    """Check kind, shape and device of images, and that of the masks that go with them."""
    for name, value in (("images", images), ("targets", targets), ("masks", masks)):
        if value is None and name == "masks":
            continue
        value = check_dense(name, value)
        if inplace and name != "targets":
            check_writable(name, value)
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
    check_pixels("images", images)
    if masks is None:
        return
    expected = (images.shape[0], *(images.shape[d] for d in spatial_dims))
    if masks.shape != expected or not is_integer(masks):
        raise ValueError(
            f"masks must be integers of shape {expected}, as the images, got {masks.dtype} of shape "
            f"{tuple(masks.shape)}"
        )


def check_dense(name: str, value: object) -> Tensor:
    """Return the value if it is a tensor with one number at every place."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized:
        raise ValueError(
            f"{name} must be a dense tensor, got {value.layout} of {value.dtype}; convert with .to_dense()"
        )
    return value


def check_pixels(name: str, images: Tensor) -> None:
    """Check the dtype of images."""
    if images.dtype not in FLOATING and images.dtype != torch.uint8:
        raise ValueError(
            f"{name} must be floating or uint8, got {images.dtype}; convert with .float() or .byte()"
        )


def check_writable(name: str, values: Tensor) -> None:
    """Check that a tensor may be written to, as ``inplace=True`` asks for."""
    reason = ""
    if values.requires_grad and values.is_leaf and torch.is_grad_enabled():
        reason = "is a leaf that requires grad"
    elif any(step == 0 and length > 1 for step, length in zip(values.stride(), values.shape, strict=True)):
        reason = "is expanded: several of its values share one place in memory"
    elif not torch.compiler.is_compiling() and values.is_inference() > torch.is_inference_mode_enabled():
        reason = "was made under torch.inference_mode and can't be written to outside of it"
    if reason:
        raise ValueError(f"{name} {reason}: give {name}.clone(), or set inplace=False")


def check_labels(targets: Tensor, batch_size: int, num_classes: int) -> None:
    """Check shape and dtype of labels, and on the CPU their values; elsewhere reading them would wait."""
    soft = targets.shape == (batch_size, num_classes)
    indices = targets.shape == (batch_size,) and not targets.is_floating_point()
    if not (soft or indices) or (targets.dtype not in FLOATING and not is_integer(targets)):
        raise ValueError(
            f"targets must be ({batch_size},) class indices or ({batch_size}, {num_classes}) one-hot, soft "
            f"or multi-hot labels for {batch_size} images and num_classes={num_classes}, got "
            f"{targets.dtype} of shape {tuple(targets.shape)}"
        )
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if soft:
        bounds: list[float] = torch.stack(torch.aminmax(targets)).tolist()
        low, high = bounds
        if not (low >= 0 and high < math.inf):
            raise ValueError(f"targets must be shares, finite and 0 or more, got values in {low}..{high}")
        return
    values = targets.tolist()
    if min(values) < 0 or max(values) >= num_classes:
        raise ValueError(
            f"class indices must be in 0..{num_classes - 1} for num_classes={num_classes}, got "
            f"{min(values)}..{max(values)}"
        )


def is_integer(values: Tensor) -> bool:
    """Return whether a tensor holds integers or bools."""
    return not (values.is_floating_point() or values.is_complex() or values.is_quantized)


def check_indices(indices: Tensor | None, batch_size: int) -> None:
    """Check the positions of samples in the data set."""
    if indices is None:
        return
    check_dense("indices", indices)
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
    if not isinstance(draw, Draw):
        raise ValueError(f"draw must be a Draw, as mixer.draw returns it, got {type(draw).__name__}")
    filled = tuple(name for name, value in draw._asdict().items() if value is not None)
    if filled and filled != fields:
        raise ValueError(
            f"{mixer} draws {' and '.join(fields) or 'nothing'}, got a draw of {' and '.join(filled)}: was "
            f"it another mixer's?"
        )
    d = len(size)
    row_shapes: dict[str, tuple[int, ...]] = {"boxes": (2 * d,), "weights": size}
    limits: dict[str, Any] = {
        "boxes": torch.tensor(size[::-1], device="cpu"),
        "partners": batch_size - 1,
        "lam": 1,
        "weights": 1,
    }
    for name in filled:
        value: Tensor = getattr(draw, name)
        check_dense(f"draw.{name}", value)
        counts = (1,) if name in ("layer", "noise_seed", "member") else (1, batch_size)
        counts = (batch_size,) if name == "partners" else counts
        shapes = [(n, *row_shapes.get(name, ())) for n in counts]
        kind = torch.float32 if name in ("lam", "weights") else torch.int64
        if value.shape not in shapes or value.device.type != "cpu" or value.dtype != kind:
            raise ValueError(
                f"draw.{name} does not fit a batch of {batch_size}: got {value.dtype}, shape "
                f"{tuple(value.shape)}, {value.device}; make one with mixer.draw({batch_size}, {size})"
            )
        low, high = (value[:, :d], value[:, d:]) if name == "boxes" else (value, value)
        limit = limits.get(name, math.inf)
        if not ((low >= 0).all() and (high <= limit).all() and (high >= low).all()):
            raise ValueError(
                f"draw.{name} must lie inside the image of size {size}, the batch of {batch_size}, or "
                f"[0, 1]; replay a draw on a batch of the size it was drawn for"
            )


def check_logits(logits: Tensor | None, shape: torch.Size, user: str = "remember") -> Tensor:
    """Return the logits, which ``user`` needs, if they fit the targets."""
    if not isinstance(logits, Tensor):
        came = "None" if logits is None else type(logits).__name__
        raise ValueError(f"{user} needs a tensor of logits of shape {tuple(shape)}, got {came}")
    if logits.shape != shape:
        raise ValueError(
            f"{user} needs logits of shape {tuple(shape)}, got {tuple(logits.shape)}; is "
            f"num_classes={shape[-1]} the model's?"
        )
    if logits.dtype not in FLOATING:
        raise ValueError(f"logits must be floating, got {logits.dtype}")
    return logits


# -- settings -----------------------------------------------------------------------------------------


def check_spatial_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the mixed dimensions as a tuple if they are negative and in ascending order."""
    given, numbers = dims, isinstance(dims, Sequence) and all(type(d) is int for d in dims)
    dims = tuple(dims) if numbers else ()
    if not 1 <= len(dims) <= 3 or any(d >= 0 for d in dims) or sorted(set(dims)) != list(dims):
        raise ValueError(
            f"spatial_dims must be 1 to 3 different negative dimensions in ascending order, as in "
            f"(-2, -1), got {given}"
        )
    return dims


def is_number(value: object) -> bool:
    """Return whether a value is a number; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """Return the value as an int if it is a whole number of at least ``least``."""
    low = -math.inf if least is None else least
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < low:
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {value!r}")
    return int(value)


def in_range(name: str, value: float, low: float, high: float) -> float:
    """Return the value as a float if it lies in [low, high]."""
    if not is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value!r}")
    return float(value)


def share(name: str, value: float, whole: str) -> float:
    """Return the value as a float if it is a share of ``whole``, above 0."""
    if not is_number(value) or not 0 < value <= 1:
        raise ValueError(
            f"{name} must be in (0, 1], got {value!r}; set prob=0 to mix nothing. It is a share of {whole}"
        )
    return float(value)


def largest_area(max_area: float | None, alpha: float | None) -> float:
    """Return ``max_area``, or its other name ``alpha``, as `share` does; 0.5 if neither is set."""
    if max_area is not None and alpha is not None:
        raise ValueError(f"alpha is another name for max_area: set one, got {alpha} and {max_area}")
    area = next((area for area in (max_area, alpha) if area is not None), 0.5)
    return share("max_area", area, "the image's area")


def positive(name: str, value: float, kind: str) -> float:
    """Return the value as a float if it is above 0 and finite; ``kind`` says what it is."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {kind} and must be above 0 and finite, got {value!r}")
    return float(value)


def non_negative(name: str, value: float, kind: str) -> float:
    """Return the value as a float if it is 0 or more and finite; ``kind`` says what it is."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {kind} and must be 0 or more and finite, got {value!r}")
    return float(value)


def beta_parameter(alpha: float) -> float:
    """Return ``alpha`` as a float if it is a parameter of a Beta distribution."""
    return positive("alpha", alpha, "a Beta parameter")


def loss_weight(name: str, value: float) -> float:
    """Return the value as a float if it can weigh a loss."""
    return non_negative(name, value, "the weight of a loss")


def one_of(name: str, value: Name, names: Sequence[str]) -> Name:
    """Return the value if it is one of these names."""
    if not isinstance(value, str) or value not in names:
        *others, last = map(repr, names)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
    return value


def known_interpolation(value: Interpolation, patch: str = "resize") -> Interpolation:
    """Return the value if it is the name of an interpolation that this kind of patch can have."""
    if one_of("interpolation", value, INTERPOLATIONS) != "nearest" and patch == "cut":
        raise ValueError(
            f"patch='cut' shrinks nothing, so interpolation={value!r} has no effect: leave it out, or set "
            f"patch='resize'"
        )
    return value


def check_class_weights(weights: Sequence[float], num_classes: int) -> Tensor:
    """Return (K,) float32 weights of the classes.

    Raises:
        ValueError: there is not one for each class, or one is not finite, or not above 0.
    """
    values = torch.as_tensor(weights, dtype=torch.float32)
    if values.shape != (num_classes,):
        raise ValueError(
            f"class_weights must hold one number for each of the {num_classes} classes, got "
            f"{tuple(values.shape)}"
        )
    if not (values.isfinite() & (values > 0)).all():
        raise ValueError(f"class_weights must be finite and > 0, got {values.tolist()}")
    return values


@contextmanager
def options_named(name: str, mixer: type) -> Iterator[None]:
    """Raise ValueError with the options of a mixer instead of TypeError for one that it does not take."""
    try:
        yield
    except TypeError as error:
        kinds = [kind for kind in mixer.__mro__ if "__init__" in vars(kind) and kind is not object]
        parameters = [p for kind in kinds for p in inspect.signature(kind.__init__).parameters.values()]  # type: ignore[misc]
        names = dict.fromkeys(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        reason = str(error).rpartition("__init__() ")[2]
        raise ValueError(
            f"mixer {name!r} does not take these options: {reason}; it takes {', '.join(names)}"
        ) from error
