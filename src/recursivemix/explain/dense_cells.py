"""Cells of mixed images with boxes, masks or label maps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from recursivemix.data.annotated import DetectionData, SegmentationData
from recursivemix.data.annotated_batches import AnnotatedTraining, DetectionTransform, SegmentationTransform
from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.data.order import TrainingOrder
from recursivemix.data.printable import counted
from recursivemix.mixing import DenseBatch, DenseRecursiveMix, DenseTarget
from recursivemix.mixing.checks import options_named
from recursivemix.report.cells import Cell, Part, enlarged, scaled, short
from recursivemix.report.overlays import class_key, draw_target

from .batches import epoch_after_epoch
from .captions import LEAST_SHARE, VISIBLE, lam_line, percent, two_lines
from .mixed_cells import kind_of

DenseTask = Literal["detection", "instance", "segmentation"]
MAP_SIZE = 256
"""Pixels per side of images with label maps, by default."""


def dense_columns(
    data: Path | None,
    task: DenseTask,
    mixer: str,
    options: dict[str, Any],
    steps: int,
    samples: int,
    batch_size: int,
    image_size: int | None,
    seed: int,
) -> tuple[list[list[Cell]], tuple[tuple[str, str], ...]]:
    """Return the first ``samples`` cells of each of the first ``steps`` batches of a run.

    The second value is the names and colours of the classes that occur in them.
    """
    if mixer not in ("none", "recursivemix"):
        raise ValueError(f"--mixer must be none or recursivemix with --task {task}, got {mixer}")
    batches, classes = open_batches(data, task, batch_size, image_size, seed)
    with options_named(mixer, DenseRecursiveMix):
        # The second one repeats the first one's draws on maps that hold the number of their image.
        mix, numbers = DenseRecursiveMix(**options), DenseRecursiveMix(**options)
    mix.enabled = numbers.enabled = mixer == "recursivemix"
    columns: list[list[Cell]] = []
    shown: list[DenseTarget | Tensor] = []
    for starts_epoch, (images, targets, _) in itertools.islice(epoch_after_epoch(batches), steps):
        if starts_epoch:
            mix.start_epoch()
            numbers.start_epoch()
        plain = [t if isinstance(t, Tensor) else DenseTarget(t.boxes, t.labels, t.masks) for t in targets]
        batch: DenseBatch[Any, Any] = mix(images, plain)
        mix.remember(batch)
        first = len(columns) * batch_size
        maps = [torch.full(image.shape[-2:], first + i) for i, image in enumerate(images)]
        numbered = numbers(images, maps, draw=batch.draw)
        numbers.remember(numbered)
        columns.append(
            [
                dense_cell(batch, i, numbered.targets[i], first + i, batch_size, classes)
                for i in range(min(samples, len(images)))
            ]
        )
        shown += batch.targets[:samples]
    return columns, tuple((f"class {name}", colour) for name, colour in class_key(shown, classes))


def open_batches(
    data: Path | None, task: DenseTask, batch_size: int, image_size: int | None, seed: int
) -> tuple[AnnotatedTraining[Any], tuple[str, ...]]:
    """Open annotated images; return the training batches of a run, and the names of the classes."""
    opened: DetectionData | SegmentationData
    transform: DetectionTransform | SegmentationTransform
    if task == "segmentation":
        opened = open_segmentation(data)
        transform = SegmentationTransform(image_size or MAP_SIZE, opened.flip)
    elif image_size is not None:
        raise ValueError(f"--image-size does not apply to --task {task}, whose images keep their sizes")
    else:
        opened = open_detection(data, masks=task == "instance")
        transform = DetectionTransform(opened.flip)
    order = TrainingOrder(len(opened.train), batch_size, seed)
    epoch = itertools.count().__next__
    batches: AnnotatedTraining[Any] = AnnotatedTraining(
        opened.train, order, transform, epoch, device=torch.device("cpu"), workers=0
    )
    return batches, opened.classes


def dense_cell(
    batch: DenseBatch[Any, Any],
    index: int,
    shown: Tensor,
    own: int,
    batch_size: int,
    classes: tuple[str, ...],
) -> Cell:
    """Return the cell of one image of a mixed batch; its bar holds shares of pixels, as no label is fused.

    Args:
        batch, index: the image.
        shown: (H, W) source of every pixel.
        own: source number of the image itself.
        batch_size: images per batch, to tell the age of a source.
        classes: names of the classes.
    """
    image, target, lam = batch.images[index], batch.targets[index], float(batch.lam[index])
    sources, counts = torch.unique(shown, return_counts=True)
    parts = [
        Part(f"image {source}", share, share, kind_of(source, own, batch_size))
        for source, share in zip(sources.tolist(), (counts / shown.numel()).tolist(), strict=True)
    ]
    parts.sort(key=lambda part: part.kind)
    x1, y1, x2, y2 = batch.boxes[index].tolist()
    box = (x1, y1, x2, y2) if lam < 1 else None
    large, times = enlarged(image)
    count = f"{counted(sum(part.pixels >= VISIBLE for part in parts), 'image')} visible"
    lines = (*annotated_lines(target, classes), lam_line(lam, box), count)
    return Cell(draw_target(large, target, times), lines, tuple(parts), scaled(box, times))


def annotated_lines(target: DenseTarget | Tensor, classes: tuple[str, ...]) -> list[str]:
    """Return the annotated classes, with their share of the pixels or their number, in two lines."""
    if isinstance(target, Tensor):
        labels, counts = torch.unique(target[target < len(classes)], return_counts=True)
        shares = [(int(k), float(n) / target.numel()) for k, n in zip(labels, counts, strict=True)]
        shares.sort(key=lambda item: -item[1])
        return two_lines([(short(classes[k]), percent(s)) for k, s in shares if s >= LEAST_SHARE])
    labels, counts = torch.unique(target.labels, return_counts=True)
    return two_lines([(short(classes[int(k)]), f"x {int(n)}") for k, n in zip(labels, counts, strict=True)])
