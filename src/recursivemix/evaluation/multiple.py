"""Four test images of four classes in one picture: how many of the classes are in the top 4."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recursivemix.data.order import generator_of

from .probe import Metric, Probe
from .scale import shrunk
from .subject import Subject, percent

PICTURES = 500
"""Pictures at most; never more than there are images in the subset."""


class FourInOne(NamedTuple):
    """Pictures of four images each."""

    images: Tensor
    """(P, 3, H, W) uint8."""
    labels: Tensor
    """(P, 4) class indices, all different: top left, top right, bottom left, bottom right."""
    quarters: Tensor
    """(4, 4) int64 boxes ``(x1, y1, x2, y2)`` of the four images, the same in every picture."""


def run(subject: Subject) -> dict[str, Any]:
    """Measure how many of the four classes are among the top 4 predictions; of four classes, all are."""
    four = pictures_of(subject, PICTURES) if subject.logits.shape[1] > 4 else None
    if four is None:
        return {"multiple": None}
    in_top4 = found_in_top4(subject.predictor.logits(four.images), four.labels)
    return {
        "multiple": {
            "top4": percent(in_top4.double().mean()),
            "all_four": percent(in_top4.all(1).double().mean()),
            "images": len(in_top4),
        }
    }


def pictures_of(subject: Subject, most: int) -> FourInOne | None:
    """Combine images of the subset; a smaller ``most`` gives the first of the same pictures."""
    images, labels = subject.subset.images, subject.subset.labels
    return four_in_one(images, labels, min(most, len(images)), generator_of(subject.seed, "multiple"))


def four_in_one(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> FourInOne | None:
    """Combine four images of different classes per picture, each shrunk to a quarter of the area.

    Args:
        images: (N, 3, H, W) uint8 on the CPU.
        labels: (N,) class indices.
        count: number P of pictures.
        generator: source of the choices.

    Returns:
        None with fewer than four classes, or fewer than two pixels per side.
    """
    height, width = images.shape[-2:]
    h, w = height // 2, width // 2
    classes = labels.unique()  # type: ignore[no-untyped-call]
    if len(classes) < 4 or min(h, w) < 1:
        return None
    members = {int(k): (labels == k).nonzero()[:, 0] for k in classes}
    chosen = []
    for _ in range(count):
        four = classes[torch.randperm(len(classes), generator=generator)[:4]].tolist()
        picks = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        chosen.append([int(members[k][int(u * len(members[k]))]) for k, u in zip(four, picks, strict=True)])
    index = torch.tensor(chosen)  # (P, 4)
    small = shrunk(images, (h, w))
    quarters = torch.tensor(
        [[x, y, x + w, y + h] for y in (0, height - h) for x in (0, width - w)], dtype=torch.int64
    )
    pictures = images.new_zeros(count, images.shape[1], height, width)
    for i, (x1, y1, x2, y2) in enumerate(quarters.tolist()):
        pictures[:, :, y1:y2, x1:x2] = small[index[:, i]]
    return FourInOne(pictures, labels[index], quarters)


def found_in_top4(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (P, 4) bool: which of each picture's four classes are among its top 4 predictions."""
    top = logits.topk(4, 1).indices  # (P, 4)
    return (labels[:, :, None] == top[:, None]).any(2)


PROBE = Probe(
    name="multiple",
    measures="four images of different classes in one picture: the share found in the top 4",
    cost=f"one forward pass over {PICTURES} pictures",
    run=run,
    metrics=(
        Metric(
            "multiple_top4",
            "Four images in one, found in the top 4",
            ("multiple", "top4"),
            short="four in one, %",
        ),
        Metric(
            "multiple_all_four",
            "Four images in one, all four found",
            ("multiple", "all_four"),
            compared=False,
        ),
    ),
    section="Several objects",
    text="The share of the four classes that are among the top 4 predictions.",
)
