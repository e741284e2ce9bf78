"""The paste itself: put a shrunken or cut image into a box of another. Pure functions.

Two forms of one operation. A box that the whole batch shares, outside a compiler, is written as a
slice: cheapest. Boxes of each sample, or any box under ``torch.compile``, go through tensors of fixed
shape, so that no draw changes a shape, waits for a device or recompiles. Both agree bit for bit for
nearest; tests hold them together.

Everywhere here the d mixed dimensions of an image come last, and ``size`` is (S1, ..., Sd).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "area"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "area")
_TORCH_MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}


def as_slices(box: Tensor, size: Sequence[int]) -> tuple[slice[int], ...]:
    """A (2 d,) box as d slices in the order of the tensor's dimensions."""
    d = len(size)
    corners = box.tolist()
    return tuple(slice(corners[d - 1 - i], corners[2 * d - 1 - i]) for i in range(d))


def inside(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """(B, S1, ..., Sd) bool: which pixels lie in each (B, 2 d) box."""
    d = len(size)
    result = torch.ones((), dtype=torch.bool, device=boxes.device)
    for i, length in enumerate(size):
        at = torch.arange(length, device=boxes.device)
        within = (at >= boxes[:, d - 1 - i, None]) & (at < boxes[:, 2 * d - 1 - i, None])  # (B, Si)
        result = result & within.view(-1, *(length if j == i else 1 for j in range(d)))
    return result


def nearest_index(length: Tensor, source: int, offset: Tensor, target: int) -> Tensor:
    """(B, target) int64: which of ``source`` pixels each position shows, as ``F.interpolate`` counts.

    Args:
        length: (B,) pixels that the source is shrunk to.
        source: pixels of the source along this dimension.
        offset: (B,) where the shrunken source begins; positions outside it are clamped.
        target: number of positions.
    """
    # float32, as torch does: exact integer division differs from it by a pixel at some sizes.
    scale = torch.tensor(source, dtype=torch.float32, device=length.device) / length.clamp(min=1)
    at = torch.arange(target, device=length.device) - offset[:, None]
    return (at * scale[:, None]).floor().long().clamp(0, source - 1)


def resize_weights(length: Tensor, source: int, offset: Tensor, target: int, mode: Interpolation) -> Tensor:
    """(B, target, source) float32: the linear map of one dimension's resize, as in `nearest_index`."""
    at = torch.arange(target, device=length.device) - offset[:, None]  # (B, target)
    length = length.clamp(min=1)[:, None]
    pixels = torch.arange(source, device=length.device)
    if mode == "area":  # adaptive average pooling: bin i covers floor(i s / n) .. ceil((i + 1) s / n)
        start = (at * source).div(length, rounding_mode="floor")[..., None]
        end = -(-(at + 1) * source).div(length, rounding_mode="floor")[..., None]
        return ((pixels >= start) & (pixels < end)).float() / (end - start)
    place = ((at + 0.5) * (source / length) - 0.5).clamp(0, source - 1)  # half-pixel centres
    return (1 - (place[..., None] - pixels).abs()).clamp(min=0)


def shrink(images: Tensor, size: Sequence[int], mode: Interpolation) -> Tensor:
    """Resize the last d dimensions of (B, C, S1, ..., Sd) to ``size``; keeps the dtype."""
    d = len(size)
    if mode == "nearest":
        simple = images.is_floating_point() or images.dtype == torch.uint8
        # For outputs up to this size torch's CPU kernel first copies all of its input.
        large = images.is_cuda or (sum(size) > 128 and images.is_contiguous())
        if simple and large:
            return F.interpolate(images, size=tuple(size), mode="nearest")
        return _gather_nearest(images, size)
    pixels = images if images.dtype == torch.float32 else images.float()
    if mode == "area":
        resized = F.interpolate(pixels, size=tuple(size), mode="area")
    else:
        resized = F.interpolate(pixels, size=tuple(size), mode=_TORCH_MODE[d], align_corners=False)
    return cast_like(resized, images)


def _gather_nearest(images: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest `shrink` by one gather of pixels, for any dtype; keeps channels_last."""
    flat: Tensor | None = None
    for length, source in zip(size, images.shape[2:], strict=True):
        # As `nearest_index`, for one length that is a plain number.
        at = torch.arange(length, dtype=torch.float32, device=images.device)
        index = (at * (source / length)).long().clamp_(max=source - 1)
        flat = index if flat is None else (flat[:, None] * source + index).flatten()
    assert flat is not None  # there is at least one dimension
    batch_size, channels = images.shape[:2]
    if images.is_contiguous():
        picked = images.flatten(2).gather(2, flat.expand(batch_size, channels, -1))
        return picked.view(batch_size, channels, *size)
    pixels = images.movedim(1, -1).flatten(1, -2)  # (B, pixels, C), a view for channels_last
    return pixels.index_select(1, flat).view(batch_size, *size, channels).movedim(-1, 1)


def shrink_into(sources: Tensor, boxes: Tensor, size: Sequence[int], mode: Interpolation) -> Tensor:
    """Each source resized to its own box, laid on a canvas of ``size``; outside the box undefined.

    Args:
        sources: (B, C, *any size).
        boxes: (B, 2 d) on the sources' device.

    Returns:
        (B, C, *size), dtype of the sources.
    """
    d = len(size)
    geometry = [  # length, source, offset, target of every dimension
        (boxes[:, 2 * d - 1 - i] - boxes[:, d - 1 - i], sources.shape[2 + i], boxes[:, d - 1 - i], n)
        for i, n in enumerate(size)
    ]
    if mode == "nearest":
        flat = torch.zeros((), dtype=torch.long, device=sources.device)
        for i, (length, source, offset, target) in enumerate(geometry):
            index = nearest_index(length, source, offset, target)
            flat = flat * source + index.view(-1, *(target if j == i else 1 for j in range(d)))
        flat = flat.flatten(1)[:, None].expand(-1, sources.shape[1], -1)  # (B, C, prod(size))
        return sources.flatten(2).gather(2, flat).view(*sources.shape[:2], *size)
    pixels = sources.float()
    for i, (length, source, offset, target) in enumerate(geometry):
        weights = resize_weights(length, source, offset, target, mode)  # (B, target, source)
        moved = pixels.movedim(2 + i, -1)
        between = (1,) * (moved.dim() - 3)
        pixels = (moved @ weights.mT.view(len(weights), *between, source, target)).movedim(-1, 2 + i)
    return cast_like(pixels, sources)


def cast_like(pixels: Tensor, like: Tensor) -> Tensor:
    """``pixels`` in the dtype of ``like``; integers are rounded, not truncated."""
    return (pixels if like.is_floating_point() else pixels.round()).to(like.dtype)


def paste(
    images: Tensor,
    sources: Tensor,
    boxes: Tensor,
    *,
    dims: int = 2,
    shrunk: bool,
    interpolation: Interpolation = "nearest",
    partners: Tensor | None = None,
    mixed: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Put sources into boxes of images; the result is new unless ``inplace`` or every box is empty.

    Args:
        images: (B, ..., S1, ..., Sd).
        sources: (B', ..., any size): the whole source shrunk into the box (``shrunk``), or the
            source's own pixels of that box (sizes equal).
        boxes: (1 or B, 2 d) int64 on the CPU; (B, 2 d) may be where the images are.
        dims: d, the number of mixed dimensions.
        partners: (B,) index into sources; None pairs sample i with source i, and samples beyond B'
            stay as they are.
        mixed: (B,) bool on the images' device: False leaves a sample as it is. None means all.
    """
    size = images.shape[-dims:]
    if len(boxes) == 1 and not torch.compiler.is_compiling():
        box = as_slices(boxes[0], size)
        place: tuple[Any, ...] = (..., *box)
        lengths = [s.stop - s.start for s in box]
        if min(lengths) <= 0:
            return images
        patch = sources if shrunk else sources[place]
        patch = patch[: len(images)] if partners is None else patch.index_select(0, partners)
        if shrunk:
            channels = patch.shape[1:-dims]
            patch = shrink(_one_channel_dim(patch, dims), lengths, interpolation)
            patch = patch.view(len(patch), *channels, *lengths)
        result = images if inplace else images.clone()
        region = result[place][: len(patch)]
        if mixed is not None:
            patch = torch.where(_column(mixed[: len(patch)], region), patch, region)
        region.copy_(patch)
        return result
    boxes = boxes.to(images.device, non_blocking=True).expand(len(images), -1)
    sources = sources[: len(images)] if partners is None else sources.index_select(0, partners)
    count = len(sources)
    if shrunk:
        channels = sources.shape[1:-dims]
        canvas = shrink_into(_one_channel_dim(sources, dims), boxes[:count], size, interpolation)
        sources = canvas.view(count, *channels, *size)
    region = inside(boxes[:count], size)
    if mixed is not None:
        region = region & _column(mixed[:count], region)
    region = region.view(count, *(1,) * (images.dim() - dims - 1), *size)
    result = images if inplace else images.clone()
    # copy_ keeps the memory format of the images, which the output of where need not have.
    result[:count].copy_(torch.where(region, sources.to(images.dtype), images[:count]))
    return result


def _one_channel_dim(images: Tensor, dims: int) -> Tensor:
    """(B, ..., S1, ..., Sd) as (B, C, S1, ..., Sd), whatever stands between, or nothing."""
    return images.reshape(len(images), -1, *images.shape[-dims:])


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1), to go against ``like``."""
    return values.view(-1, *(1,) * (like.dim() - 1))
