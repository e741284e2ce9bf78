"""Four images in one picture: whether each class's activation map points at its own quarter."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .activation import activation_maps
from .multiple import pictures_of
from .probe import Metric, Probe
from .subject import Subject, percent

MAPPED = 100
"""Pictures of four at most whose activation maps are made."""


class Pointing(NamedTuple):
    """Agreement of activation maps with boxes, one row per map."""

    peak_inside: Tensor
    """(N,) bool: the map's maximum lies in the box."""
    energy_inside: Tensor
    """(N,) share of the map's sum that lies in the box; 0 for a map of zeros."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure how often the activation map of a class peaks in the quarter of that class."""
    four = pictures_of(subject, MAPPED)
    if four is None:
        return {"localisation": None}
    pictures = four.images.repeat_interleave(4, 0)
    predictor = subject.predictor
    maps = activation_maps(predictor.network, predictor.prepare(pictures), four.labels.flatten())
    agreement = pointing(maps, four.quarters.repeat(len(four.images), 1))
    return {
        "localisation": {
            "pointing": percent(agreement.peak_inside.double().mean()),
            "energy": percent(agreement.energy_inside.double().mean()),
            "maps": len(maps),
        }
    }


def pointing(maps: Tensor, boxes: Tensor) -> Pointing:
    """Compare activation maps with boxes.

    A map with several equal maxima points into the box if at least half of them lie inside, so that the
    result for a flat map does not depend on the order of its pixels.

    Args:
        maps: (N, H, W), non-negative.
        boxes: (N, 4) ``(x1, y1, x2, y2)`` pixels, end-exclusive.
    """
    height, width = maps.shape[-2:]
    rows, columns = torch.arange(height), torch.arange(width)
    x1, y1, x2, y2 = (boxes[:, i, None] for i in range(4))
    inside = ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None]
    peak = maps == maps.amax((1, 2), keepdim=True)
    share = (peak & inside).sum((1, 2)) / peak.sum((1, 2))
    total = maps.sum((1, 2))
    energy = (maps * inside).sum((1, 2)) / total.clamp(min=torch.finfo(maps.dtype).tiny)
    return Pointing(share >= 0.5, energy)


PROBE = Probe(
    name="localization",
    measures="the share of class activation maps that peak in the quarter of their class",
    cost=f"{4 * MAPPED} activation maps (Grad-CAM) of {MAPPED} pictures",
    run=run,
    metrics=(
        Metric(
            "localisation",
            "Activation points into the right quarter",
            ("localisation", "pointing"),
            short="points right, %",
        ),
        Metric(
            "localisation_energy",
            "Activation inside the right quarter",
            ("localisation", "energy"),
            compared=False,
        ),
    ),
    section="Several objects",
    text="The share of class activation maps that peak in the quarter of their class; chance is 25 %.",
)
