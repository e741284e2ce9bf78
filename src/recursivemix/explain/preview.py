"""Draw the first batches of a training run as the network receives them, and their sources.

Each row is a sample, each column an iteration: pasted images shrink and fade. Torch is imported when the
drawing starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from recursivemix.data.names import Source
from recursivemix.data.settings import AugmentationSettings
from recursivemix.report.names import Theme

from .out_file import check_out

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
    from .batches import open_images
    from .dense_cells import dense_columns
    from .mixed_cells import mixed_columns
    from .preview_page import write_preview

    check_out(out)
    count = samples if batch_size is None else batch_size
    check_options(task, dataset, val_split, augmentation)
    check_counts(steps, samples, count)
    options = {"seed": seed} | (mixer_options or {})
    if task == "classification":
        images = open_images(data, dataset, val_split, image_size, seed)
        columns = mixed_columns(images, mixer, options, model, steps, samples, count, seed, augmentation)
        return write_preview(columns, mixer, theme, out)
    columns, key = dense_columns(data, task, mixer, options, steps, samples, count, image_size, seed)
    return write_preview(columns, mixer, theme, out, key)


def check_options(
    task: Task, dataset: str | None, val_split: float | None, augmentation: AugmentationSettings
) -> None:
    """Raise ValueError for options that only classification has."""
    if task == "classification":
        return
    if augmentation != DEFAULT_AUGMENTATION:
        raise ValueError(f"options of augmentation do not apply to --task {task}: leave them out")
    if dataset is not None or val_split is not None:
        raise ValueError(f"--dataset and --val-split do not apply to --task {task}: leave them out")


def check_counts(steps: int, samples: int, batch_size: int) -> None:
    """Raise ValueError for more than fits a picture, or more samples than a batch has."""
    for name, value, most in (("steps", steps, MOST_STEPS), ("samples", samples, MOST_SAMPLES)):
        if not 1 <= value <= most:
            raise ValueError(f"--{name} must be in 1..{most}, got {value}")
    if batch_size < samples:
        raise ValueError(f"--batch-size must be at least --samples, {samples}, got {batch_size}")
