"""Validation of the batches of `DenseRecursiveMix`. Every function raises ValueError."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import check_dense, check_pixels, is_integer
from .dense_targets import DenseTarget
from .draw import Draw


def check_images(images: Any) -> None:
    """Check that there is at least one image and that all are of one kind."""
    batched = isinstance(images, list) or (isinstance(images, Tensor) and images.dim() == 4)
    if not batched or len(images) == 0:
        raise ValueError(
            f"images must be a (B, C, H, W) tensor or a list of (C, H, W), at least one; got "
            f"{_described(images)}"
        )
    for i, image in enumerate(images):
        if not isinstance(image, Tensor) or image.dim() != 3 or image.numel() == 0:
            came = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"images[{i}] must be a (C, H, W) tensor with pixels, got {came}")
        check_dense(f"images[{i}]", image)
        check_pixels(f"images[{i}]", image)
        first = images[0]
        if (image.shape[0], image.dtype, image.device) != (first.shape[0], first.dtype, first.device):
            raise ValueError(
                f"images of one batch must have the same channels, dtype and device: images[{i}] has "
                f"{image.shape[0]}, {image.dtype}, {image.device}; images[0] has {first.shape[0]}, "
                f"{first.dtype}, {first.device}"
            )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "an empty list" if value == [] else type(value).__name__


def check_targets(images: Any, targets: Any) -> None:
    """Check that objects or label maps fit their images and are all of one kind."""
    kinds: set[type] = {type(target) for target in targets} if isinstance(targets, list) else {Tensor}
    maps = all(issubclass(kind, Tensor) for kind in kinds)
    if not isinstance(targets, (Tensor, list)) or not (maps or kinds == {DenseTarget}):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        came = f"a list of {names}" if isinstance(targets, list) else type(targets).__name__
        raise ValueError(
            f"targets must be a list of DenseTarget, or label maps as (B, H, W) or a list of (H, W); got "
            f"{came}"
        )
    if isinstance(targets, Tensor) and targets.dim() != 3:
        raise ValueError(f"label maps must be (B, H, W), got targets of shape {tuple(targets.shape)}")
    if len(targets) != len(images):
        raise ValueError(f"{len(images)} images need {len(images)} targets, got {len(targets)}")
    every: Any = targets
    for i, (image, target) in enumerate(zip(images, every, strict=True)):
        size = tuple(image.shape[-2:])
        if not maps:
            _check_objects(i, target, size)
            if (target.masks is None) != (every[0].masks is None):
                raise ValueError(
                    f"all images of a batch have masks or none: targets[{i}] and targets[0] differ; an "
                    f"image without objects has masks of shape (0, H, W)"
                )
        elif target.shape != size or not is_integer(target):
            raise ValueError(
                f"the label map targets[{i}] must be integers of shape {size}, as the image, got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        elif target.dtype != targets[0].dtype:
            raise ValueError(
                f"label maps of one batch must have one dtype: targets[{i}] is {target.dtype}, targets[0] "
                f"{targets[0].dtype}"
            )
    if not maps:
        _check_boxes(images, every)


def _check_objects(i: int, target: DenseTarget, size: tuple[int, ...]) -> None:
    for name, value in target._asdict().items():
        if name != "masks" or value is not None:
            check_dense(f"targets[{i}].{name}", value)
    if target.boxes.dim() != 2:
        raise ValueError(f"targets[{i}].boxes must be (N, 4), got shape {tuple(target.boxes.shape)}")
    count = len(target.boxes)
    expected = (
        ("boxes", target.boxes, torch.float32, (count, 4)),
        ("labels", target.labels, torch.int64, (count,)),
        ("masks", target.masks, torch.bool, (count, *size)),
    )
    for name, value, dtype, shape in expected:
        if value is not None and (value.dtype != dtype or value.shape != shape):
            raise ValueError(
                f"targets[{i}].{name} must be {dtype} of shape {shape} for {count} boxes, got "
                f"{value.dtype} of shape {tuple(value.shape)}"
            )


def _check_boxes(images: Any, targets: list[DenseTarget]) -> None:
    """Check all boxes at once, since reading a value waits for the device."""
    boxes = torch.cat([target.boxes for target in targets])
    limits = [image.shape[:-3:-1] for image in images]  # (W, H)
    limit = torch.cat(
        [t.boxes.new_tensor(wh).expand(len(t.boxes), 2) for t, wh in zip(targets, limits, strict=True)]
    )
    # A box that was scaled with its image may extend over the border by a rounding error.
    bad = ~((boxes[:, 2:] > boxes[:, :2]) & (boxes[:, :2] > -1) & (boxes[:, 2:] < limit + 1)).all(1)
    if bad.any():
        at = int(bad.nonzero()[0])
        image = next(i for i in range(len(targets)) if sum(len(t.boxes) for t in targets[: i + 1]) > at)
        raise ValueError(
            f"boxes must be (x1, y1, x2, y2) with x1 < x2 and y1 < y2 inside the image: targets[{image}] "
            f"has {boxes[at].tolist()} in an image of size {tuple(images[image].shape[-2:])} (H, W); clip "
            f"boxes to the image and leave out the empty ones"
        )


def check_draw(draw: Draw, sizes: list[tuple[int, int]]) -> None:
    """Check that a draw was made for images of these (H, W)."""
    if not isinstance(draw, Draw):
        raise ValueError(f"draw must be a Draw, as mixer.draw returns it, got {type(draw).__name__}")
    filled = [name for name, value in draw._asdict().items() if value is not None]
    boxes = draw.boxes
    if filled not in ([], ["boxes"]):
        raise ValueError(f"DenseRecursiveMix draws boxes, got a draw of {' and '.join(filled)}")
    if boxes is None:
        return
    check_dense("draw.boxes", boxes)
    if boxes.shape != (len(sizes), 4) or boxes.dtype != torch.int64 or boxes.device.type != "cpu":
        raise ValueError(
            f"draw.boxes must be ({len(sizes)}, 4) int64 on the CPU for {len(sizes)} images, got "
            f"{boxes.dtype} of shape {tuple(boxes.shape)} on {boxes.device}; make a draw with "
            f"mixer.draw(sizes)"
        )
    limit = torch.tensor(sizes, device="cpu").flip(1)
    if (boxes[:, :2] < 0).any() or (boxes[:, 2:] > limit).any() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(
            f"draw.boxes must lie inside the images of sizes {sizes}; replay a draw on a batch of the "
            f"sizes it was drawn for"
        )
