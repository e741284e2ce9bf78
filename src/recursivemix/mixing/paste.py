"""Paste a shrunken or cut image into a box of another. Pure functions.

One operation in two forms. Boxes that are known on the CPU are written as slices, which touches nothing but
the pixels of the box. Under ``torch.compile``, and for boxes per sample on a device or in small images, it
goes through tensors of fixed shape, so that no draw changes a shape, waits for a device or recompiles. Both
agree bit for bit for nearest; the tests compare them.

Everywhere here the d mixed dimensions of an image come last, and ``size`` is (S1, ..., Sd).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "area"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "area")
_TORCH_MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SMALL = 64 * 64
"""Pixels of an image up to which one pass over all of them is cheaper than a Python loop over samples."""
_SMALL_BOX = 24 * 24
"""Pixels of a box up to which Python lists them faster than a few operations on tensors."""


class Patch(NamedTuple):
    """Pixels that are to be written into a box."""

    rows: slice[int]
    """The samples that get them."""
    place: tuple[slice[int], ...]
    """The box, in the order of the mixed dimensions."""
    pixels: Tensor
    """(rows, ..., *box)."""


def paste(
    images: Tensor,
    sources: Tensor,
    boxes: Tensor,
    *,
    dims: int = 2,
    shrunk: bool,
    interpolation: Interpolation = "nearest",
    partners: Tensor | None = None,
    left_out: Tensor | None = None,
    finite_only: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Put sources into boxes of images.

    Args:
        images: (B, ..., S1, ..., Sd).
        sources: (B', ..., any size): the whole source shrunk into the box (``shrunk``), or the source's own
            pixels of that box (sizes equal).
        boxes: (1 or B, 2 d) int64 on the CPU; (B, 2 d) may be where the images are.
        dims: d, the number of mixed dimensions.
        shrunk: Shrink the source into the box instead of cutting it out of the source.
        interpolation: How a source is shrunk.
        partners: (B,) index into sources; None pairs sample i with source i, and leaves out the samples
            beyond B'.
        left_out: (B',) bool on the images' device, samples that stay as they are; None means none.
        finite_only: Leave out the samples whose pasted pixels are not all finite. A resize other than
            nearest in the form of fixed shape leaves out those with any such pixel.
        inplace: Write into the images. Otherwise the result is new, unless every box is empty.

    Returns:
        The images, and (B,) bool, the samples that were left out; None if there are none for certain.
    """
    count = images.shape[0] if partners is not None else min(sources.shape[0], images.shape[0])
    if partners is None and sources.shape[0] > count:
        sources = sources[:count]
    if count < images.shape[0] or (left_out is not None and left_out.shape[0] > count):
        left_out = _extended(left_out, count, images.shape[0], images.device)
    finite_only = finite_only and images.is_floating_point()
    per_sample = boxes.shape[0] > 1
    small = images.shape[-dims:].numel() <= _SMALL
    known = boxes.is_cpu and not torch.compiler.is_compiling()
    if not known or (per_sample and (small or not images.is_cpu)):
        return _paste_everywhere(
            images, sources, boxes, dims, shrunk, interpolation, partners, left_out, finite_only, inplace
        )
    patches = _patches(sources, boxes, count, dims, shrunk, interpolation, partners)
    if finite_only:
        left_out = _non_finite(patches, left_out, images.shape[0])
    if not patches:
        return images, left_out
    if inplace and per_sample and partners is not None:  # a patch may be a view of what is written next
        patches = [patch._replace(pixels=patch.pixels.clone()) for patch in patches]
    result = images if inplace else images.clone()
    for rows, place, pixels in patches:
        region = result[_index(rows, place)]
        if left_out is not None:
            pixels = torch.where(_column(left_out[rows], region), region, pixels)
        region.copy_(pixels)
    return result, left_out


def _extended(left_out: Tensor | None, count: int, batch_size: int, device: torch.device) -> Tensor | None:
    """Return (B,) bool from the first ``count`` samples; further ones are left out."""
    if count == batch_size:
        return None if left_out is None else left_out[:count]
    result = torch.ones(batch_size, dtype=torch.bool, device=device)
    result[:count] = False if left_out is None else left_out[:count]
    return result


def _patches(
    sources: Tensor,
    boxes: Tensor,
    count: int,
    dims: int,
    shrunk: bool,
    interpolation: Interpolation,
    partners: Tensor | None,
) -> list[Patch]:
    """Return the pixels for every box that is not empty."""
    shared = boxes.shape[0] == 1
    chosen = None if shared or partners is None else partners.tolist()
    patches = []
    for i, corners in enumerate(boxes.tolist()[:count]):
        place = tuple(slice(corners[dims - 1 - k], corners[2 * dims - 1 - k]) for k in range(dims))
        lengths = [side.stop - side.start for side in place]
        if min(lengths) <= 0:
            continue
        rows = slice(0, count) if shared else slice(i, i + 1)
        first = i if chosen is None else chosen[i]
        source = sources if shared else sources[first : first + 1]
        if shrunk:
            pixels = shrink(_one_channel_dim(source, dims), lengths, interpolation)
            if source.dim() != 2 + dims:
                pixels = pixels.view(len(source), *source.shape[1:-dims], *lengths)
        else:
            pixels = source[_index(slice(None), place)]
        if shared and partners is not None:
            pixels = pixels.index_select(0, partners)
        patches.append(Patch(rows, place, pixels))
    return patches


def _non_finite(patches: list[Patch], left_out: Tensor | None, batch_size: int) -> Tensor | None:
    """Add the samples with a pixel that is not finite to those that are left out."""
    for patch in patches:
        if not all_finite(patch.pixels):
            bad = not_finite(patch.pixels)
            if left_out is None:
                left_out = torch.zeros(batch_size, dtype=torch.bool, device=bad.device)
            left_out = left_out.clone()
            left_out[patch.rows].logical_or_(bad)
    return left_out


def all_finite(values: Tensor) -> bool:
    """Whether all values are known to be finite: on a CPU by reading their sum, elsewhere never."""
    if not values.is_cpu or torch.compiler.is_compiling():
        return False
    total: Any = values.sum(dtype=_wide(values)).tolist()  # unlike item, no operation of its own
    return math.isfinite(total)


def not_finite(values: Tensor) -> Tensor:
    """Return (N,) bool: the samples with an infinite value or NaN.

    A sum is finite exactly if its terms are (and it does not overflow); ``torch.isfinite`` of all values
    would take several passes.
    """
    sums = values.sum(tuple(range(1, values.dim())), dtype=_wide(values))
    return (sums - sums) != 0


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _paste_everywhere(
    images: Tensor,
    sources: Tensor,
    boxes: Tensor,
    dims: int,
    shrunk: bool,
    interpolation: Interpolation,
    partners: Tensor | None,
    left_out: Tensor | None,
    finite_only: bool,
    inplace: bool,
) -> tuple[Tensor, Tensor | None]:
    """Paste through tensors of fixed shape."""
    size = images.shape[-dims:]
    if partners is not None:
        sources = take_samples(sources, partners)
    count = sources.shape[0]
    boxes = boxes.to(images.device, non_blocking=True).expand(images.shape[0], -1)[:count]
    if shrunk:
        canvas = shrink_into(_one_channel_dim(sources, dims), boxes, size, interpolation)
        sources = canvas.view(count, *sources.shape[1:-dims], *size)
    region = inside(boxes, size)
    region = region.view(count, *(1,) * (images.dim() - dims - 1), *size)
    if finite_only:
        bad = not_finite(sources.masked_fill(~region, 0))
        bad = bad if count == images.shape[0] else F.pad(bad, (0, images.shape[0] - count))
        left_out = bad if left_out is None else left_out | bad
    if left_out is not None:
        region = region & ~_column(left_out[:count], region)
    mixed = torch.where(region, sources.to(images.dtype), images[:count])
    if count < images.shape[0]:
        mixed = torch.cat([mixed, images[count:]])
    if inplace:
        return images.copy_(mixed), left_out
    return in_format_of(images, mixed), left_out


def in_format_of(like: Tensor, values: Tensor) -> Tensor:
    """Return values of the same shape and dtype in the memory format of ``like``.

    Operations on tensors of several formats, such as ``torch.where``, choose the format of their output.
    """
    return values if values.stride() == like.stride() else torch.empty_like(like).copy_(values)


def inside(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, S1, ..., Sd) bool: the pixels that lie in each (B, 2 d) box."""
    d = len(size)
    result = torch.ones((), dtype=torch.bool, device=boxes.device)
    for i, length in enumerate(size):
        at = torch.arange(length, device=boxes.device)
        within = (at >= boxes[:, d - 1 - i, None]) & (at < boxes[:, 2 * d - 1 - i, None])  # (B, Si)
        result = result & within.view(-1, *(length if j == i else 1 for j in range(d)))
    return result


# -- resizing -----------------------------------------------------------------------------------------


def shrink(images: Tensor, size: Sequence[int], mode: Interpolation) -> Tensor:
    """Resize the last d dimensions of (B, C, S1, ..., Sd) to ``size``; keeps the dtype."""
    if mode == "nearest":
        simple = images.is_floating_point() or images.dtype == torch.uint8
        if images.is_cpu or not simple:  # on a CPU several times faster than torch's kernel
            return _pick_nearest(images, size)
        return F.interpolate(images, size=tuple(size), mode="nearest")
    pixels = images if images.dtype == torch.float32 else images.float()
    if len(size) != 2 or not pixels.is_contiguous(memory_format=torch.channels_last):
        pixels = pixels.contiguous()
    if len(size) == 2 and images.is_cpu and pixels.is_contiguous():
        pixels = pixels.view(-1, 1, *images.shape[2:])  # the kernel for several channels copies its input
    if mode == "area":
        resized = F.interpolate(pixels, size=tuple(size), mode="area")
    else:
        resized = F.interpolate(pixels, size=tuple(size), mode=_TORCH_MODE[len(size)], align_corners=False)
    return cast_like(resized, images).view(*images.shape[:2], *size)


def _pick_nearest(images: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest `shrink` by selecting pixels, for any dtype; keeps channels_last."""
    batch_size, channels, *sides = images.shape
    shown = [shown_pixels(length, source) for length, source in zip(size, sides, strict=True)]
    if math.prod(size) <= _SMALL_BOX:
        flat = _as_index(shown_places(tuple(shown), tuple(sides)), images.device)
    elif images.is_contiguous():
        # Rows first: they are copied as a whole, and fewer are left to pick from.
        for i, rows in enumerate(shown[:-1]):
            images = images.index_select(2 + i, _as_index(rows, images.device))
        picked = images.view(-1, sides[-1]).index_select(1, _as_index(shown[-1], images.device))
        return picked.view(batch_size, channels, *size)
    else:
        starts = _as_index(shown_places((*shown[:-1], (0,)), tuple(sides)), images.device)
        flat = starts[:, None] + _as_index(shown[-1], images.device)
    if images.is_contiguous():
        picked = images.view(batch_size * channels, math.prod(sides)).index_select(1, flat)
        return picked.view(batch_size, channels, *size)
    pixels = images.movedim(1, -1).flatten(1, -2)  # (B, pixels, C), a view for channels_last
    return pixels.index_select(1, flat.flatten()).view(batch_size, *size, channels).movedim(-1, 1)


@lru_cache(maxsize=4096)
def shown_pixels(length: int, source: int) -> tuple[int, ...]:
    """Return which of ``source`` pixels each of ``length`` shows, as `nearest_index` for plain numbers."""
    scale = array("f", [source / length])[0]
    return tuple(int(place) for place in array("f", [i * scale for i in range(length)]))


@lru_cache(maxsize=1024)
def shown_places(shown: tuple[tuple[int, ...], ...], sides: tuple[int, ...]) -> array[int]:
    """Return the places in the flattened source of every combination of `shown_pixels`.

    Args:
        shown: The pixels of each dimension.
        sides: The sizes of the source.
    """
    places = [0]
    for pixels, side in zip(shown, sides, strict=True):
        places = [place * side + pixel for place in places for pixel in pixels]
    return array("q", places)


def _as_index(numbers: Iterable[int], device: torch.device) -> Tensor:
    """Return int64 numbers as a tensor, several times faster than ``torch.tensor`` does."""
    numbers = numbers if isinstance(numbers, array) else array("q", numbers)
    return torch.frombuffer(numbers, dtype=torch.int64).to(device, non_blocking=True)


def nearest_index(length: Tensor, source: int, offset: Tensor, target: int) -> Tensor:
    """Return (B, target) int64: the source pixel that each position shows, as ``F.interpolate`` counts.

    Args:
        length: (B,) pixels that the source is shrunk to.
        source: Pixels of the source along this dimension.
        offset: (B,) where the shrunken source begins; positions outside it are clamped.
        target: Number of positions.
    """
    # float32, as torch does: exact integer division differs from it by a pixel at some sizes.
    scale = torch.tensor(source, dtype=torch.float32, device=length.device) / length.clamp(min=1)
    at = torch.arange(target, device=length.device) - offset[:, None]
    return (at * scale[:, None]).floor().long().clamp(0, source - 1)


def resize_weights(length: Tensor, source: int, offset: Tensor, target: int, mode: Interpolation) -> Tensor:
    """Return (B, target, source) float32: the linear map of one dimension's resize.

    Args as in `nearest_index`.
    """
    at = torch.arange(target, device=length.device) - offset[:, None]  # (B, target)
    length = length.clamp(min=1)[:, None]
    pixels = torch.arange(source, device=length.device)
    if mode == "area":  # adaptive average pooling: bin i covers floor(i s / n) .. ceil((i + 1) s / n)
        start = (at * source).div(length, rounding_mode="floor")[..., None]
        end = -(-(at + 1) * source).div(length, rounding_mode="floor")[..., None]
        return ((pixels >= start) & (pixels < end)).float() / (end - start)
    place = ((at.float() + 0.5) * (source / length.float()) - 0.5).clamp(
        0, source - 1
    )  # half-pixel centres
    return (1 - (place[..., None] - pixels).abs()).clamp(min=0)


def shrink_into(sources: Tensor, boxes: Tensor, size: Sequence[int], mode: Interpolation) -> Tensor:
    """Resize each source to its own box on a canvas of ``size``; outside the box undefined.

    Args:
        sources: (B, C, *any size).
        boxes: (B, 2 d) on the sources' device.
        size: Of the canvas.
        mode: The interpolation.

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


def take_samples(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` in the memory format of the values, faster than indexing does."""
    if values.is_contiguous() or values.dim() < 3:
        return values.index_select(0, rows)
    last = values.movedim(1, -1)
    return last.index_select(0, rows).movedim(-1, 1) if last.is_contiguous() else values[rows]


def cast_like(pixels: Tensor, like: Tensor) -> Tensor:
    """Return ``pixels`` in the dtype of ``like``; integers are rounded, not truncated."""
    return (pixels if like.is_floating_point() else pixels.round()).to(like.dtype)


def _one_channel_dim(images: Tensor, dims: int) -> Tensor:
    """Return (B, ..., S1, ..., Sd) as (B, C, S1, ..., Sd), with any number of dimensions between."""
    if images.dim() == 2 + dims:
        return images
    return images.reshape(images.shape[0], -1, *images.shape[-dims:])


def _index(rows: slice[int], place: Sequence[slice[int]]) -> Any:
    return (rows, ..., *place)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """Return (B,) as (B, 1, ..., 1), to broadcast against ``like``."""
    return values.view(-1, *(1,) * (like.dim() - 1))
