"""Cells of mixed images: each picture with its label, box and the sources it is made of."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recursivemix.data.images import ImageData, denormalise
from recursivemix.data.settings import AugmentationSettings
from recursivemix.mixing import MixedBatch
from recursivemix.report.cells import AGES, NOTHING, Cell, Cells, Part, as_bytes, enlarged, scaled, short

from .batches import Step, first_batches, network_for
from .captions import LEAST_SHARE, count_line, lam_line, percent, two_lines
from .sources import Composition, SourceTracker


class MixedStep(NamedTuple):
    """One mixed batch; source ``number * batch_size + i`` is image i of its own."""

    number: int
    """Counted from 0."""
    batch_size: int
    composition: Composition
    classes: Tensor
    """(S,) class index of each source so far."""


def mixed_steps(tracker: SourceTracker, steps: Iterable[Step]) -> Iterator[MixedStep]:
    """Mix batches one after another."""
    classes = torch.zeros(tracker.batch_size * tracker.steps, dtype=torch.long)
    for number, (starts_epoch, batch) in enumerate(steps):
        if starts_epoch:
            tracker.start_epoch()
        first = number * tracker.batch_size
        classes[first : first + len(batch.targets)] = batch.targets
        composition = tracker(batch.images, batch.indices)
        yield MixedStep(number, tracker.batch_size, composition, classes)


def mixed_columns(
    images: ImageData,
    mixer: str,
    options: dict[str, Any],
    model: str,
    steps: int,
    samples: int,
    batch_size: int,
    seed: int,
    augmentation: AugmentationSettings,
) -> list[list[Cell]]:
    """Return the cells of the first ``samples`` images of each of the first ``steps`` batches of a run."""
    network = network_for(mixer, model, batch_size * steps, images.image_size, seed)
    tracker = SourceTracker(mixer, batch_size, steps, network, **options)
    batches = itertools.islice(first_batches(images, batch_size, seed, augmentation), steps)
    columns = []
    for step in mixed_steps(tracker, batches):
        mixed = step.composition.batch.images[:samples]
        pictures = as_bytes(denormalise(mixed, images.mean, images.std))
        columns.append([mixed_cell(step, i, p, images.classes) for i, p in enumerate(pictures)])
    return columns


def mixed_cell(step: MixedStep, index: int, picture: Tensor, names: tuple[str, ...]) -> Cell:
    """Return the cell of one image of a mixed batch, a (3, H, W) uint8 picture."""
    composition = step.composition
    label, pixels = composition.label[index], composition.pixels[index]
    own = step.number * step.batch_size + index
    parts = [
        Part(
            names[int(step.classes[source])],
            float(label[source]),
            float(pixels[source]),
            kind_of(source, own, step.batch_size),
        )
        for source in torch.nonzero((label > 0) | (pixels > 0))[:, 0].tolist()
    ]
    parts.sort(key=lambda part: part.kind)
    lam = float(composition.batch.lam[index])
    box = box_of(composition, index, own)
    layer = composition.batch.draw.layer
    inside = lam < 1 and layer is not None and int(layer) > 0
    last = "mixed inside the network" if inside else count_line(parts)
    large, times = enlarged(picture)
    lines = (*label_lines(parts), lam_line(lam, box), last)
    return Cell(large, lines, tuple(parts), scaled(box, times))


def kind_of(source: int, own: int, batch_size: int) -> int:
    """Return the index in `AGES` of a source of the image ``own``."""
    if source == own:
        return 0
    age = own // batch_size - source // batch_size
    return min(age + 1, len(AGES) - 1)


def box_of(composition: Composition, index: int, own: int) -> tuple[int, int, int, int] | None:
    """Return the pasted box of one image; None if nothing was pasted, or not in a box."""
    batch = composition.batch
    if batch.draw.boxes is not None:
        return pasted_box(batch, index)
    if composition.shown is None or float(batch.lam[index]) == 1:
        return None
    pasted = composition.shown[index] != own
    rows, columns = pasted.any(1).nonzero()[:, 0], pasted.any(0).nonzero()[:, 0]
    count = int(pasted.sum())
    if count == 0 or len(rows) * len(columns) != count:
        return None
    x1, y1, x2, y2 = (int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    if (x2 - x1) * (y2 - y1) != count or count == pasted.numel():
        return None
    return x1, y1, x2, y2


def pasted_box(batch: MixedBatch, index: int) -> tuple[int, int, int, int] | None:
    """Return the drawn box of one image; None if nothing was pasted."""
    boxes = batch.draw.boxes
    if boxes is None or float(batch.lam[index]) == 1:
        return None
    x1, y1, x2, y2 = boxes[index if len(boxes) > 1 else 0].tolist()
    return x1, y1, x2, y2


def label_lines(parts: list[Part]) -> list[str]:
    """Return the label by class, in two lines."""
    weights: dict[str, float] = defaultdict(float)
    for part in parts:
        weights[part.name] += part.label
    heaviest = sorted(weights.items(), key=lambda item: -item[1])
    return two_lines([(short(name), percent(w)) for name, w in heaviest if w >= LEAST_SHARE])


def in_rows(title: str, columns: list[list[Cell]], first: int = 1) -> Cells:
    """Arrange the cells of each step, which become columns numbered from ``first``."""
    heads = tuple(f"iteration {i}" for i in range(first, first + len(columns)))
    count = max(len(column) for column in columns)
    if not any(cell.lines[1] for column in columns for cell in column):  # no label needs its second line
        columns = [[replace(c, lines=(c.lines[0], *c.lines[2:])) for c in column] for column in columns]
    rows = tuple(tuple(c[i] if i < len(c) else NOTHING for c in columns) for i in range(count))
    return Cells(title, heads, rows, ("",) * count)
