"""Draw the first batches of a training run as the network receives them, and their sources.

Each row is a sample, each column an iteration: pasted images shrink and fade.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from recursivemix.data.atomic_write import write_text
from recursivemix.data.images import ImageData, denormalise
from recursivemix.data.names import Source
from recursivemix.data.settings import AugmentationSettings
from recursivemix.report.cells import (
    Cell,
    Cells,
    Theme,
    as_bytes,
    as_grid,
    check_out,
    write_cells,
    write_frames,
)
from recursivemix.report.page import Page, Section, render

from .batches import Step, first_batches, network_for, open_images
from .captions import COUNTED, VISIBLE
from .dense_cells import dense_columns
from .mixed_cells import in_rows, mixed_cell, mixed_steps
from .sources import SourceTracker

Task = Literal["classification", "detection", "instance", "segmentation"]
DEFAULT_AUGMENTATION = AugmentationSettings()
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
    augmentation: AugmentationSettings = DEFAULT_AUGMENTATION,
) -> Path:
    """Draw the first batches of a training run as the network receives them.

    Args:
        data: Folder of images, as for recursivemix fit, or with --task for recursivemix transfer (default:
            crops of two photographs that ship with scikit-learn; for other tasks scenes of digits).
        dataset: Kind of --data, as in recursivemix fit; digits for the handwritten digits.
        val_split: Share of images held out, as in recursivemix fit, for a folder without splits.
        task: classification, or the kind of annotations: detection, instance or segmentation.
        mixer: Mixing method; none or recursivemix for other tasks than classification.
        mixer_options: Settings of the mixer, such as --mixer-options.max_area 0.3.
        model: Network for a method that works inside one; its weights are random.
        steps: Number of iterations, one per column.
        samples: Number of images shown per batch, one per row.
        batch_size: Images per batch (default: --samples). With the batch size and seed of a run, these are
            its first batches; only the crops of small image files, which a run holds in memory, differ.
        image_size: Pixels per side (default: as in recursivemix fit; 256 for segmentation).
        seed: Seed of order, augmentation and mixing.
        theme: light or dark, for PNG and GIF; a page follows the reader's setting.
        out: File to write: .png, .html (a page) or .gif (iterations one after another).
        augmentation: Augmentation before the mixing, of classification.

    Returns:
        The file.

    Raises:
        ValueError: data, a mixer or a file that cannot be used.
    """
    check_out(out)
    count = samples if batch_size is None else batch_size
    check_counts(steps, samples, count)
    options = {"seed": seed} | (mixer_options or {})
    if task == "classification":
        images = open_images(data, dataset, val_split, image_size, seed)
        network = network_for(mixer, model, count * steps, images.image_size, seed)
        tracker = SourceTracker(mixer, count, steps, network, **options)
        batches = first_batches(images, count, seed, augmentation)
        columns = mixed_columns(tracker, images, itertools.islice(batches, steps), samples)
    elif augmentation != DEFAULT_AUGMENTATION:
        raise ValueError(f"options of augmentation do not apply to --task {task}: leave them out")
    elif dataset is None and val_split is None:
        columns = dense_columns(data, task, mixer, options, steps, samples, count, image_size, seed)
    else:
        raise ValueError(f"--dataset and --val-split do not apply to --task {task}: leave them out")
    write_preview(in_rows(f"{mixer}, the first {len(columns)} iterations", columns), mixer, theme, out)
    return out


def check_counts(steps: int, samples: int, batch_size: int) -> None:
    """Raise ValueError for more than fits a picture, or more samples than a batch has."""
    for name, value, most in (("steps", steps, MOST_STEPS), ("samples", samples, MOST_SAMPLES)):
        if not 1 <= value <= most:
            raise ValueError(f"--{name} must be in 1..{most}, got {value}")
    if batch_size < samples:
        raise ValueError(f"--batch-size must be at least --samples, {samples}, got {batch_size}")


def mixed_columns(
    tracker: SourceTracker, images: ImageData, batches: Iterator[Step], samples: int
) -> list[list[Cell]]:
    """Return the cells of the first ``samples`` images of each mixed batch, one list per batch."""
    columns = []
    for step in mixed_steps(tracker, batches):
        mixed = step.composition.batch.images[:samples]
        pictures = as_bytes(denormalise(mixed, images.mean, images.std))
        columns.append([mixed_cell(step, i, p, images.classes) for i, p in enumerate(pictures)])
    return columns


def write_preview(cells: Cells, mixer: str, theme: Theme, out: Path) -> None:
    """Write a PNG, a GIF or a page, by the suffix."""
    if out.suffix.lower() == ".gif":
        write_frames(cells, out, theme)
    elif out.suffix.lower() == ".png":
        write_cells(cells, out, theme)
    else:
        write_text(out, render(preview_page(cells, mixer)))


def preview_page(cells: Cells, mixer: str) -> Page:
    """Return the page of a preview."""
    text = [
        "Under each picture: its label by source image, from its own to the oldest, and by class; lam, the "
        "weight of its own image; and the pasted box, x1 y1 x2 y2 in pixels.",
        f"A source is visible with at least {100 * VISIBLE:g} % of the pixels, and in the label with a "
        f"weight of at least {100 * COUNTED:g} %.",
    ]
    return Page(
        title="Mixed batches",
        answer=cells.title,
        facts="Each row is a sample, each column an iteration.",
        labels=(),
        sections=[Section(mixer, text, grids=[as_grid(cells)])],
    )
