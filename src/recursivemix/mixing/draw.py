"""All randomness of the package's mixers: a seeded stream and the draws made from it.

First draw, then apply: everything after these functions is deterministic. Draws live on the CPU,
so drawing never waits for a device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """Every random decision made for one batch; feed it back to replay the batch.

    N is 1 (one decision for the whole batch) or B (one for each sample). A sample that is not to be
    mixed has an empty box, or ``lam`` 1.
    """

    boxes: Tensor | None = None
    """(N, 2 d) int64 pixels, end-exclusive; ``(x1, y1, x2, y2)`` for the usual d = 2 dimensions."""
    lam: Tensor | None = None
    """(N,) float32 weight of the current image, for methods that blend instead of paste."""
    partners: Tensor | None = None
    """(B,) int64: which sample of the same batch each one is mixed with."""
    weights: Tensor | None = None
    """(N, S1, ..., Sd) float32 in [0, 1]: weight of the current image at every pixel."""
    layer: Tensor | None = None
    """(1,) int64: which of the network's layers is mixed, by methods that work inside it; 0: the input."""
    noise_seed: Tensor | None = None
    """(1,) int64: seeds the noise of methods that disturb images."""


def seeded_generator(seed: int, rank: int) -> torch.Generator:
    """A CPU generator whose stream depends on both numbers; rank 0 is the plain seed."""
    # The golden-ratio step keeps (seed, rank) and (seed + 1, rank - 1) apart.
    return torch.Generator().manual_seed((seed + rank * 0x9E3779B97F4A7C15) % 2**63)


def process_rank() -> int:
    """This process's rank: torch.distributed if it is up, else the launcher's RANK, else 0."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def uniform(count: int, columns: int, generator: torch.Generator) -> Tensor:
    """(count, columns) float64 in [0, 1)."""
    return torch.rand(count, columns, generator=generator, dtype=torch.float64)


def beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """(count,) float64 draws of Beta(alpha, alpha), as a share of two gammas.

    ``torch.distributions.Beta`` takes no generator, so it cannot be replayed or resumed.
    """
    # gamma(a) is gamma(a + 1) U^(1/a); in logarithms, since a small alpha underflows the power.
    shape = torch.full((2, count), alpha + 1, dtype=torch.float64)
    logs = torch._standard_gamma(shape, generator=generator).log()
    logs = logs + uniform(2, count, generator).log() / alpha
    return torch.sigmoid(logs[0] - logs[1])


def gated_lam(alpha: float, prob: float, count: int, generator: torch.Generator) -> Tensor:
    """(count,) float64: ``lam`` ~ Beta(alpha, alpha) with probability ``prob``, else 1, nothing mixed."""
    chosen = uniform(count, 1, generator)[:, 0] < prob
    return torch.where(chosen, beta(alpha, count, generator), 1.0)


def draw_patch(
    count: int, dims: int, max_area: float, prob: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """RecursiveMix's patches, before any image size is known (paper.md 1.2, step 2).

    Returns:
        (count,) float64, the share of the area: U(0, max_area) with probability ``prob``, else 0; and
        (count, dims) float64 in [0, 1), the centre. Both as `centred_boxes` takes them.
    """
    u = uniform(count, 2 + dims, generator)
    return torch.where(u[:, 0] < prob, u[:, 1] * max_area, 0.0), u[:, 2:]


def centred_boxes(area: Tensor, place: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes of an area share around uniform centres, clipped at the border.

    The box keeps the image's aspect: each side is ``floor(size * area ** (1 / d))``, and reaches half
    of it (integer division) to both sides of its centre. This is CutMix's box (arXiv 1905.04899,
    section 3.1 and its code) and RecursiveMix's (paper.md 1.2, step 2).

    Args:
        area: (N,) float64, share of the image in [0, 1], before clipping; 0 gives an empty box.
        place: (N, d) float64 in [0, 1): the centre, as a share of each dimension.
        size: the d image sizes in pixels, in the order of the tensor's dimensions, (H, W).

    Returns:
        (N, 2 d) int64, ``(x1, y1, x2, y2)``.
    """
    limit = torch.tensor(tuple(size))
    half = (limit * area[:, None] ** (1 / len(size))).long() // 2  # (N, d)
    centre = (place * limit).long()
    starts, ends = (centre - half).clamp_(min=0), torch.minimum(centre + half, limit)
    return torch.cat([starts.flip(1), ends.flip(1)], 1)


def inner_boxes(side: Tensor, place: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes with sides ``floor(size * side)``, uniform over every place where they fit whole.

    Args and result as in `centred_boxes`, with ``side`` (N,) the share of each image side.
    """
    sizes = torch.tensor(tuple(size), dtype=torch.float64)
    sides = (sizes * side[:, None]).floor()  # (N, d)
    starts = (place * (sizes - sides + 1)).floor()
    return torch.cat([starts.flip(1), (starts + sides).flip(1)], 1).long()


def box_shares(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """(N,) float64: share of the image's pixels inside each (N, 2 d) box."""
    d = len(size)
    return (boxes[:, d:] - boxes[:, :d]).prod(1).double() / math.prod(size)
