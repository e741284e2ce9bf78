"""Closed forms of the published mixing process, for square images of ``side`` pixels.

``max_area`` is the largest pasted share of the area. Boxes are drawn as in `recursivemix.mixing.draw`: one
ratio for both directions, a uniform center, clipped at the border.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recursivemix.mixing import RecursiveMix

from .process import AGES


def half_side_probabilities(side: int, max_area: float) -> Tensor:
    """Return the probability of each half side 0, 1, 2, ... in pixels, float64.

    The box has the side ``floor(side * sqrt(u))`` with u ~ U(0, max_area); half of it is rounded down.
    """
    if max_area == 0:
        return torch.ones(1, dtype=torch.float64)
    halves = torch.arange(int(side * math.sqrt(max_area)) // 2 + 1, dtype=torch.float64)
    low, high = (2 * halves / side) ** 2, (2 * (halves + 1) / side) ** 2
    return (high.clamp(max=max_area) - low.clamp(max=max_area)) / max_area


def mean_pasted_share(side: int, max_area: float) -> float:
    """Return E[1 - lam] after the first step.

    A half side h around a uniform center has the mean clipped length ``2 h - h^2 / side``. Both directions
    share h; their centers are independent.
    """
    probabilities = half_side_probabilities(side, max_area)
    halves = torch.arange(len(probabilities), dtype=torch.float64)
    share = (2 * halves - halves**2 / side) / side
    return float((probabilities * share**2).sum())


def empty_box_probability(side: int, max_area: float) -> float:
    """Return the probability that the box is empty: its half side is 0."""
    return float(half_side_probabilities(side, max_area)[0])


def mean_weight_by_age(age: int, side: int, max_area: float) -> float:
    """Return the mean label weight of the source of ``age`` steps ago; draws of steps are independent."""
    pasted = mean_pasted_share(side, max_area)
    return pasted**age * (1 - pasted)


def closed_form(mixer: str, options: dict[str, Any], size: int) -> dict[str, Any] | None:
    """Return the exact values for RecursiveMix with its history in every step; None for other methods."""
    if mixer != "recursivemix":
        return None
    made = RecursiveMix(1, **options)
    if made.partner != "history" or made.prob < 1:
        return None
    return {
        "pasted_mean": mean_pasted_share(size, made.max_area),
        "unmixed": empty_box_probability(size, made.max_area),
        "label_by_age": [mean_weight_by_age(age, size, made.max_area) for age in range(AGES)],
    }
