"""The first batches of a training run as the network gets them, and of what each image is made.

One row a sample, one column an iteration: what was pasted shrinks and fades.
"""

from __future__ import annotations

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from recursivemix.data.annotated import DetectionData, SegmentationData
from recursivemix.data.annotated_batches import (
    AnnotatedTraining,
    DetectionTransform,
    SegmentationTransform,
)
from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import TrainingBatches
from recursivemix.data.images import ImageData, StackedImages, denormalise
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.data.order import TrainingOrder
from recursivemix.explain.photographs import PARTS, photographs
from recursivemix.mixing import MIXERS, DenseBatch, DenseRecursiveMix, DenseTarget
from recursivemix.models.create import create_model
from recursivemix.report.cells import (
    NOTHING,
    Cell,
    Cells,
    Part,
    Theme,
    as_bytes,
    as_grid,
    check_out,
    enlarged,
    scaled,
    short,
    write_cells,
    write_frames,
)
from recursivemix.report.overlays import draw_target
from recursivemix.report.page import Page, Section, render
from recursivemix.training.atomic_write import write_text

from .sources import Composition, SourceTracker

Task = Literal["classification", "detection", "instance", "segmentation"]
VISIBLE = 0.001
"""Least share of the pixels of a source that counts as visible: 1 pixel of 32x32, 50 of 224x224."""
COUNTED = 0.01
"""Least weight of a source that counts in the label."""
LEAST_SAID = 0.0005
"""Of a class under a picture."""
NO_BREAK = "\u00a0"
LINE_WIDTH = 32
"""Characters under a picture."""
MAP_SIZE = 256
MOST_STEPS, MOST_SAMPLES = 64, 64


def preview(
    data: Path | None = None,
    dataset: Source | None = None,
    val_split: float | None = None,
    task: Task = "classification",
    mixer: str = "recursivemix",
    mixer_options: dict[str, Any] | None = None,
    model: str = "resnet20",
    steps: int = 8,
    samples: int = 4,
    batch_size: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    theme: Theme = "light",
    out: Path = Path("preview.png"),
) -> Path:
    """Draw the first batches of a training run as the network gets them.

    Args:
        data: Folder of images, as recursivemix fit or, with --task, recursivemix transfer takes it. Without
            it, parts of two photographs that ship with scikit-learn; other tasks have scenes of digits.
        dataset: What --data is, as in recursivemix fit; digits for the handwritten digits.
        val_split: As in recursivemix fit, for a folder without splits.
        task: classification, or what is annotated: detection, instance or segmentation.
        mixer: The method; for tasks other than classification none or recursivemix.
        mixer_options: Settings of the mixer, such as --mixer-options.max_area 0.3.
        model: The network, for a method that works inside it; its weights are random.
        steps: Iterations, one a column.
        samples: Images of each batch that are shown, one a row.
        batch_size: Images a step. Default: as many as are shown. With a run's own batch size and seed these
            are its first batches; files of small images, which a run holds in memory, are only cropped at
            other places.
        image_size: Pixels a side. Default: as in recursivemix fit; 256 for segmentation.
        seed: Of order, augmentation and mixing.
        theme: light or dark, of a PNG or GIF; a page follows the reader's.
        out: File to write: .png, .html (one page) or .gif (the iterations one after another).

    Returns:
        The file.

    Raises:
        ValueError: data, a mixer or a file that can't be used.
    """
    check_out(out)
    for name, value, most in (("steps", steps, MOST_STEPS), ("samples", samples, MOST_SAMPLES)):
        if not 1 <= value <= most:
            raise ValueError(f"--{name} must be in 1..{most}, got {value}")
    count = samples if batch_size is None else batch_size
    if count < samples:
        raise ValueError(f"--batch-size must be at least --samples, {samples}, got {batch_size}")
    if task != "classification" and not (dataset is None and val_split is None):
        raise ValueError(f"--dataset and --val-split are not of --task {task}: its folders are told apart")
    options = {"seed": seed} | (mixer_options or {})
    if task == "classification":
        images = open_preview(data, dataset, val_split, image_size, seed)
        network = network_for(mixer, model, count * steps, images.image_size, seed)
        tracker = SourceTracker(mixer, count, steps, network, **options)
        columns = classified_cells(tracker, images, steps, samples, seed)
    else:
        columns = dense_cells(data, task, mixer, options, steps, samples, count, image_size, seed)
    cells = in_rows(f"{mixer}, the first {len(columns)} iterations", columns)
    if out.suffix.lower() == ".gif":
        write_frames(cells, out, theme)
    elif out.suffix.lower() == ".png":
        write_cells(cells, out, theme)
    else:
        write_text(out, render(preview_page(cells, mixer)))
    return out


def open_preview(
    data: Path | None, dataset: Source | None, val_split: float | None, image_size: int | None, seed: int
) -> ImageData:
    """The images of a preview: as for training, but the photographs where nothing is named."""
    if data is None and dataset is None:
        if val_split is not None or image_size is not None:
            raise ValueError("--val-split and --image-size belong to a folder of images: give --data DIR")
        return photographs()
    return open_data(data, dataset or "auto", val_split=val_split, image_size=image_size, seed=seed)


def network_for(mixer: str, model: str, num_classes: int, image_size: int, seed: int) -> nn.Module | None:
    """A network of random weights where the method needs one."""
    if mixer not in MIXERS or not MIXERS[mixer].needs_model:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(model, num_classes, image_size).train()


class Step(NamedTuple):
    """One batch as it came."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    begins: bool
    """An epoch."""


def first_batches(data: ImageData, batch_size: int, seed: int) -> Iterator[Step]:
    """The training batches of a run, epoch after epoch."""
    epoch = 0
    # The photographs are cut into parts already.
    augmentation = augmentation_of(data, crop="none" if data.split == PARTS else None)
    order = TrainingOrder(len(data.train), batch_size, seed)
    small = isinstance(data.train, StackedImages) and augmentation.crop != "resized"
    batches = TrainingBatches(
        data.train, order, augmentation, lambda: epoch, device=torch.device("cpu"), hold=small
    )
    for epoch in itertools.count():  # noqa: B007 - the batches ask for it
        for step, batch in enumerate(batches):
            yield Step(*batch, step == 0)


def classified_cells(
    tracker: SourceTracker, data: ImageData, steps: int, samples: int, seed: int
) -> list[list[Cell]]:
    """The shown cells of every step."""
    columns = []
    classes = torch.zeros(tracker.batch_size * tracker.steps, dtype=torch.long)
    batches = first_batches(data, tracker.batch_size, seed)
    for number, step in enumerate(itertools.islice(batches, steps)):
        if step.begins:
            tracker.start_epoch()
        first = number * tracker.batch_size
        classes[first : first + len(step.labels)] = step.labels
        composition = tracker(step.images, step.indices)
        pictures = as_bytes(denormalise(composition.batch.images[:samples], data.mean, data.std))
        columns.append(
            [
                classified_cell(picture, composition, i, number, tracker.batch_size, classes, data.classes)
                for i, picture in enumerate(pictures)
            ]
        )
    return columns


def classified_cell(
    picture: Tensor,
    composition: Composition,
    index: int,
    step: int,
    batch_size: int,
    classes: Tensor,
    names: tuple[str, ...],
) -> Cell:
    """One image of a batch, and its composition in words."""
    label, pixels = composition.label[index], composition.pixels[index]
    own = step * batch_size + index
    parts = [
        Part(names[int(classes[s])], float(label[s]), float(pixels[s]), kind_of(s, own, step, batch_size))
        for s in torch.nonzero((label > 0) | (pixels > 0))[:, 0].tolist()
    ]
    parts.sort(key=lambda part: part.kind)
    lam = float(composition.batch.lam[index])
    box = box_of(composition, index, own)
    layer = composition.batch.draw.layer
    inside = lam < 1 and layer is not None and int(layer) > 0
    lines = [*label_lines(parts), place_line(lam, box), count_line(parts)]
    if inside:
        lines[-1] = "mixed inside the network"
    large, times = enlarged(picture)
    return Cell(large, tuple(lines), tuple(parts), scaled(box, times))


def kind_of(source: int, own: int, step: int, batch_size: int) -> int:
    """Where a source stands in `recursivemix.report.cells.AGES`."""
    if source == own:
        return 0
    age = step - source // batch_size
    return min(age + 1, 5)


def box_of(composition: Composition, index: int, own: int) -> tuple[int, int, int, int] | None:
    """The pasted box of one sample; None where nothing was pasted, or in another shape."""
    batch = composition.batch
    if float(batch.lam[index]) == 1:
        return None
    boxes = batch.draw.boxes
    if boxes is not None:
        x1, y1, x2, y2 = boxes[index if len(boxes) > 1 else 0].tolist()
        return x1, y1, x2, y2
    if composition.shown is None:
        return None
    pasted = composition.shown[index] != own
    rows, columns = pasted.any(1).nonzero()[:, 0], pasted.any(0).nonzero()[:, 0]
    if not len(rows) or len(rows) * len(columns) != int(pasted.sum()):
        return None
    x1, y1, x2, y2 = (int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    if (x2 - x1) * (y2 - y1) != int(pasted.sum()) or (x2 - x1, y2 - y1) == tuple(pasted.shape[::-1]):
        return None
    return x1, y1, x2, y2


def label_lines(parts: list[Part]) -> list[str]:
    """The label by class, in two lines at most."""
    weights: dict[str, float] = defaultdict(float)
    for part in parts:
        weights[part.name] += part.label
    heaviest = sorted(weights.items(), key=lambda item: -item[1])
    return two_lines([(short(name), percent(w)) for name, w in heaviest if w >= LEAST_SAID])


def two_lines(said: list[tuple[str, str]]) -> list[str]:
    """Names with what is said of them, as many as go into two lines; the second may be empty."""
    words = ", ".join(f"{name} {value}".replace(" ", NO_BREAK) for name, value in said)
    lines = textwrap.wrap(words, LINE_WIDTH) or [""]
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1].rstrip(',')} …"]
    return [line.replace(NO_BREAK, " ") for line in [*lines, ""][:2]]


def percent(share: float) -> str:
    """A share, as exact as its size asks for."""
    return f"{100 * share:.0f}%" if share >= 0.0995 or share == 0 else f"{100 * share:.1f}%"


def place_line(lam: float, box: tuple[int, int, int, int] | None) -> str:
    """``lam`` and the box."""
    if box is None:
        return f"lam {lam:.3f}"
    x1, y1, x2, y2 = box
    return f"lam {lam:.3f}, box {x1} {y1} {x2} {y2}"


def count_line(parts: list[Part]) -> str:
    """How many sources can be seen, and how many count in the label."""
    visible = sum(part.pixels >= VISIBLE for part in parts)
    return f"{visible} visible, {sum(part.label >= COUNTED for part in parts)} in the label"


def in_rows(title: str, columns: list[list[Cell]]) -> Cells:
    """Cells by sample instead of by step."""
    heads = tuple(f"iteration {i}" for i in range(1, len(columns) + 1))
    count = max(len(column) for column in columns)
    cells = [[without_blank(cell, columns) for cell in column] for column in columns]
    rows = tuple(tuple(c[i] if i < len(c) else NOTHING for c in cells) for i in range(count))
    return Cells(title, heads, rows, ("",) * count)


def without_blank(cell: Cell, columns: list[list[Cell]]) -> Cell:
    """A cell less its second line if that is empty in all of them."""
    if any(other.lines[1] for column in columns for other in column):
        return cell
    return replace(cell, lines=(cell.lines[0], *cell.lines[2:]))


def preview_page(cells: Cells, mixer: str) -> Page:
    """The page of a preview."""
    text = [
        "Under each picture: its label by the images that it comes from, from its own to the oldest one, "
        "and by class; lam, the weight of the own image; the pasted box, x1 y1 x2 y2 in pixels.",
        f"Visible is an image with {100 * VISIBLE:g} % of the pixels or more; it counts in the label with "
        f"a weight of {100 * COUNTED:g} % or more.",
    ]
    return Page(
        title="What is mixed",
        answer=cells.title,
        facts="One row a sample, one column an iteration.",
        labels=(),
        sections=[Section(mixer, text, grids=[as_grid(cells)])],
    )


# -- boxes, masks and label maps --------------------------------------------------------------------


def dense_cells(
    data: Path | None,
    task: Task,
    mixer: str,
    options: dict[str, Any],
    steps: int,
    samples: int,
    batch_size: int,
    image_size: int | None,
    seed: int,
) -> list[list[Cell]]:
    """The shown cells of every step of annotated images, mixed with their annotations."""
    if mixer not in ("none", "recursivemix"):
        raise ValueError(f"--task {task} has --mixer none or recursivemix, got {mixer}")
    opened: DetectionData | SegmentationData
    transform: DetectionTransform | SegmentationTransform
    if task == "segmentation":
        opened = open_segmentation(data)
        transform = SegmentationTransform(image_size or MAP_SIZE, opened.flip)
    else:
        if image_size is not None:
            raise ValueError(f"--image-size is of --task segmentation; images of {task} keep their sizes")
        opened = open_detection(data, masks=task == "instance")
        transform = DetectionTransform(opened.flip)
    try:
        # The second one is given the first one's draws, and numbers instead of label maps.
        mix, numbers = DenseRecursiveMix(**options), DenseRecursiveMix(**options)
    except TypeError as error:
        raise ValueError(f"mixer {mixer!r} does not take these options: {error}") from error
    mix.enabled = numbers.enabled = mixer == "recursivemix"
    epoch = 0
    order = TrainingOrder(len(opened.train), batch_size, seed)
    batches: AnnotatedTraining[Any] = AnnotatedTraining(
        opened.train, order, transform, lambda: epoch, device=torch.device("cpu"), workers=0
    )
    columns: list[list[Cell]] = []
    while len(columns) < steps:
        mix.start_epoch()
        numbers.start_epoch()
        for images, targets, _ in itertools.islice(batches, steps - len(columns)):
            plain = [
                t if isinstance(t, Tensor) else DenseTarget(t.boxes, t.labels, t.masks) for t in targets
            ]
            batch: DenseBatch[Any, Any] = mix(images, plain)
            mix.remember(batch)
            first = len(columns) * batch_size
            own = [torch.full(image.shape[-2:], first + i) for i, image in enumerate(images)]
            numbered = numbers(images, own, draw=batch.draw)
            numbers.remember(numbered)
            columns.append(
                [
                    dense_cell(batch, i, numbered.targets[i], first + i, batch_size, opened.classes)
                    for i in range(min(samples, len(images)))
                ]
            )
        epoch += 1
    return columns


def dense_cell(
    batch: DenseBatch[Any, Any],
    index: int,
    shown: Tensor,
    own: int,
    batch_size: int,
    classes: tuple[str, ...],
) -> Cell:
    """One annotated image; its bar holds shares of pixels, for there is no label to be fused."""
    image, target, lam = batch.images[index], batch.targets[index], float(batch.lam[index])
    sources, counts = torch.unique(shown, return_counts=True)
    step = own // batch_size
    parts = [
        Part(f"image {s}", share, share, kind_of(s, own, step, batch_size))
        for s, share in zip(sources.tolist(), (counts / shown.numel()).tolist(), strict=True)
    ]
    parts.sort(key=lambda part: part.kind)
    x1, y1, x2, y2 = batch.boxes[index].tolist()
    box = (x1, y1, x2, y2) if lam < 1 else None
    large, times = enlarged(image)
    visible = sum(part.pixels >= VISIBLE for part in parts)
    count = f"{visible} image{'' if visible == 1 else 's'} visible"
    lines = (*annotated_lines(target, classes), place_line(lam, box), count)
    return Cell(draw_target(large, target, times), lines, tuple(parts), scaled(box, times))


def annotated_lines(target: DenseTarget | Tensor, classes: tuple[str, ...]) -> list[str]:
    """What is annotated, in two lines at most."""
    if isinstance(target, Tensor):
        labels, counts = torch.unique(target[target < len(classes)], return_counts=True)
        shares = [(int(k), float(n) / target.numel()) for k, n in zip(labels, counts, strict=True)]
        shares.sort(key=lambda item: -item[1])
        return two_lines([(short(classes[k]), percent(s)) for k, s in shares if s >= LEAST_SAID])
    labels, counts = torch.unique(target.labels, return_counts=True)
    return two_lines([(short(classes[int(k)]), f"x {int(n)}") for k, n in zip(labels, counts, strict=True)])
