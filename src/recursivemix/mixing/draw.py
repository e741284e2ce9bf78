"""The random draws of the mixers, made from a seeded generator.

First draw, then apply: everything after these functions is deterministic. Draws live on the CPU, so that
drawing never waits for a device; torch's default device may be another, so every tensor names it. What is
drawn once per batch is computed in Python numbers and becomes one small tensor; what is drawn per sample is
computed in tensors, by the same formulas.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor
"""One decision: a Python number for the whole batch, or (N,) float64, one per sample."""


class Draw(NamedTuple):
    """Every random decision made for one batch; pass it back to the mixer to replay the batch.

    N is 1 (one decision for the whole batch) or B (one per sample). A sample that is not to be mixed has
    an empty box, or ``lam`` 1.
    """

    boxes: Tensor | None = None
    """(N, 2 d) int64 pixels, end-exclusive; ``(x1, y1, x2, y2)`` for the usual d = 2 dimensions."""
    lam: Tensor | None = None
    """(N,) float32 weight of the current image, for methods that blend instead of paste."""
    partners: Tensor | None = None
    """(B,) int64: the sample of the same batch that each one is mixed with."""
    weights: Tensor | None = None
    """(N, S1, ..., Sd) float32 in [0, 1]: weight of the current image at every pixel."""
    layer: Tensor | None = None
    """(1,) int64: the layer of the network that is mixed, by methods that work inside it; 0: the input."""
    noise_seed: Tensor | None = None
    """(1,) int64: seed of the noise, for methods that add it to images."""
    member: Tensor | None = None
    """(1,) int64: the method that made the other fields, by its number; for a mixer made of mixers."""


def uniform(count: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw (count, columns) float64 in [0, 1)."""
    return torch.rand(count, columns, generator=generator, dtype=torch.float64, device="cpu")


def random_integer(end: int, generator: torch.Generator) -> Tensor:
    """Draw (1,) int64 in [0, end)."""
    return torch.randint(end, (1,), generator=generator, device="cpu")


def random_partners(batch_size: int, generator: torch.Generator) -> Tensor:
    """Draw (B,) int64, a permutation of the batch; a sample may be its own partner."""
    return torch.randperm(batch_size, generator=generator, device="cpu")


def uniform_numbers(count: int, columns: int, generator: torch.Generator) -> list[Number]:
    """Draw as `uniform`; return the columns, as Python numbers if ``count`` is 1."""
    u = uniform(count, columns, generator)
    return u.tolist()[0] if count == 1 else list(u.unbind(1))


def beta(alpha: float, count: int, generator: torch.Generator) -> Number:
    """Draw ``count`` times from Beta(alpha, alpha), as a share of two gammas.

    ``torch.distributions.Beta`` takes no generator, so it can be neither replayed nor resumed.
    """
    # gamma(a) is gamma(a + 1) U^(1/a); in logarithms, since a small alpha underflows the power.
    shape = torch.full((2, count), alpha + 1, dtype=torch.float64, device="cpu")
    gammas = torch._standard_gamma(shape, generator=generator)
    u = uniform(2, count, generator)
    if count == 1:
        logs = [
            math.log(gamma) + math.log(max(power, sys.float_info.min)) / alpha
            for (gamma,), (power,) in zip(gammas.tolist(), u.tolist(), strict=True)
        ]
        share = math.exp(-abs(logs[0] - logs[1]))  # cannot overflow
        return (1.0 if logs[0] > logs[1] else share) / (1 + share)
    columns = gammas.log() + u.log() / alpha
    return torch.sigmoid(columns[0] - columns[1])


def gated_lam(alpha: float, prob: float, count: int, generator: torch.Generator) -> Number:
    """Draw ``lam`` ~ Beta(alpha, alpha) with probability ``prob``, else 1, nothing mixed."""
    (gate,) = uniform_numbers(count, 1, generator)
    return choose(gate < prob, beta(alpha, count, generator), 1.0)


def draw_patch(
    count: int, dims: int, max_area: float, prob: float, generator: torch.Generator
) -> tuple[Number, list[Number]]:
    """Draw RecursiveMix's patches, before any image size is known (arXiv 2203.06844 and the authors' code).

    Returns:
        The share of the area, U(0, max_area) with probability ``prob``, else 0; and for each of ``dims``
        dimensions the centre in [0, 1). Both as `centred_boxes` takes them.
    """
    gate, area, *place = uniform_numbers(count, 2 + dims, generator)
    return choose(gate < prob, area * max_area, 0.0), place


def centred_boxes(area: Number, place: Sequence[Number], size: Sequence[int]) -> Tensor:
    """Return boxes of an area share around given centres, clipped at the border.

    The box keeps the image's aspect: each side is ``floor(size * area ** (1 / d))`` and extends by half of
    it (integer division) to both sides of its centre. This is the box of CutMix (arXiv 1905.04899, section
    3.1 and its code) and of RecursiveMix's code.

    Args:
        area: Share of the image in [0, 1], before clipping; 0 gives an empty box.
        place: The centre in each dimension, as a share in [0, 1).
        size: The d image sizes in pixels, in the order of the tensor's dimensions, (H, W).

    Returns:
        (N, 2 d) int64, ``(x1, y1, x2, y2)``.
    """
    d = len(size)
    side = math.sqrt(area) if d == 2 and isinstance(area, float) else area ** (1 / d)
    starts, ends = [], []
    for length, share in zip(size, place, strict=True):
        half, centre = length * side // 2, length * share // 1
        starts.append(clip(centre - half, 0, length))
        ends.append(clip(centre + half, 0, length))
    return _boxes(starts, ends)


def inner_boxes(side: Number, place: Sequence[Number], size: Sequence[int]) -> Tensor:
    """Return boxes with sides ``floor(size * side)``, uniform over every place where they fit whole.

    Args and result as in `centred_boxes`; ``side`` is the share of each image side.
    """
    sides = [length * side // 1 for length in size]
    starts = [(n - s + 1) * u // 1 for n, s, u in zip(size, sides, place, strict=True)]
    return _boxes(starts, [start + s for start, s in zip(starts, sides, strict=True)])


def _boxes(starts: list[Number], ends: list[Number]) -> Tensor:
    """Return (N, 2 d) int64 boxes from the corners in the order of the tensor's dimensions."""
    columns = [*reversed(starts), *reversed(ends)]
    if isinstance(columns[0], Tensor):
        return torch.stack([column for column in columns if isinstance(column, Tensor)], 1).long()
    return torch.frombuffer(array("q", map(int, columns)), dtype=torch.int64).view(1, -1)


def box_shares(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return (N,) float64: share of the image's pixels inside each (N, 2 d) box."""
    d = len(size)
    return (boxes[:, d:] - boxes[:, :d]).prod(1).double() / math.prod(size)


def pasted_boxes(
    boxes: Tensor | None, images: Tensor, dims: int, lam: Number, left_out: Tensor | None
) -> Tensor:
    """Return (B, 2 d) int64 on the images' device: each sample's box, the whole image if there is none.

    Args:
        boxes: (1 or B, 2 d) int64 on the CPU.
        images: (B, ..., S1, ..., Sd).
        dims: d.
        lam: `kept_share` of the boxes; 1 if nothing was pasted.
        left_out: (B,) bool, samples that were not pasted into; None means none.
    """
    batch_size, size, device = images.shape[0], images.shape[-dims:], images.device
    whole = [0] * dims + list(size[::-1])
    if isinstance(lam, float) and not torch.compiler.is_compiling():
        corners = whole if boxes is None or lam == 1 else boxes.tolist()[0]
        table = torch.frombuffer(
            array("q", corners) * batch_size, dtype=torch.int64
        )  # a copy, no operation
        result = table.view(batch_size, -1).to(device, non_blocking=True)
    else:
        table = torch.tensor([whole], device="cpu")
        if isinstance(lam, Tensor) and boxes is not None:
            table = torch.where(lam[:, None] < 1, boxes, table)
        result = table.to(device, non_blocking=True).expand(batch_size, -1).contiguous()
    if left_out is None:
        return result
    whole_box = torch.tensor([whole], device="cpu").to(device, non_blocking=True)
    return torch.where(left_out[:, None], whole_box, result)


def kept_share(boxes: Tensor, size: Sequence[int]) -> Number:
    """Return the share of the image's pixels outside each box; one number for one box that can be read."""
    if boxes.shape[0] > 1 or not boxes.is_cpu or torch.compiler.is_compiling():
        return (1 - box_shares(boxes, size)).float()
    (corners,) = boxes.tolist()
    pixels = 1
    for i in range(len(size)):
        pixels *= corners[i + len(size)] - corners[i]
    return array("f", [1 - pixels / math.prod(size)])[0]  # rounded as in float32 tensors


def as_number(values: Tensor) -> Number:
    """Return a decision for the whole batch as a Python number if it can be read without waiting."""
    if values.shape[0] > 1 or torch.compiler.is_compiling():
        return values
    return float(values.tolist()[0])


def choose(condition: bool | Tensor, value: Number, other: float) -> Number:
    """Return the value where the condition holds, else the other one."""
    if isinstance(condition, Tensor):
        return torch.where(condition, value, other)
    return value if condition else other


def clip(value: Number, low: float, high: float) -> Number:
    """Return the value, limited to [low, high]."""
    return value.clamp(low, high) if isinstance(value, Tensor) else min(max(value, low), high)


def as_column(value: Number, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return one decision as a tensor of shape (1,), or many as (N,)."""
    if isinstance(value, Tensor):
        return value.to(dtype)
    return torch.tensor([value], dtype=dtype, device="cpu")
