"""Predict files and folders of images. Torch is imported when a prediction starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recursivemix.evaluation.names import Tta
from recursivemix.training.settings import Device

from .names import TOP_K, Format

if TYPE_CHECKING:
    from recursivemix.evaluation.predict import UnreadableImage


@dataclass(frozen=True)
class Predicted:
    """What `predict_files` did."""

    images: int
    """With a prediction."""
    unreadable: list[UnreadableImage]


def predict_files(
    checkpoint: list[Path],
    images: list[str],
    top_k: int = TOP_K,
    format: Format | None = None,
    out: Path | None = None,
    tta: Tta | None = None,
    features: bool = False,
    maps: Path | None = None,
    pictures: Path | None = None,
    batch_size: int = 32,
    workers: int = 2,
    device: Device = "auto",
) -> Predicted:
    """Predict images with a trained network of any task.

    Args:
        checkpoint: Checkpoint of a training run; give the option several times to average networks.
        images: Files, folders (searched recursively), or - to read file names from standard input.
        top_k: Number of classes per image, the most probable first; for classification.
        format: csv, json or parquet (default: as --out ends, else csv).
        out: File to write; must be new (default: standard output).
        tta: flip averages with the prediction for the mirrored image.
        features: Write the embedding of each image too.
        maps: Folder for label maps as PNG, 0 for no class and 1 + class else; for segmentation.
        pictures: Folder for pictures with the predictions drawn over them; for detection and segmentation.
        batch_size: Images per batch.
        workers: Number of threads that read images.
        device: cpu, gpu, or auto (a GPU if there is one).

    Returns:
        The number of images predicted, and the files that could not be read.

    Raises:
        ValueError: checkpoints, images, options or an output that cannot be used.
    """
    for option, value, least in ("top-k", top_k, 1), ("batch-size", batch_size, 1), ("workers", workers, 0):
        if value < least:
            raise ValueError(f"--{option} must be at least {least}, got {value}")
    from recursivemix.evaluation.predict import predictions

    from .prediction_files import (
        check_outputs,
        find_images,
        load_all,
        open_table,
        write_class_names,
        write_predictions,
    )

    models = load_all(checkpoint, device)
    kind = format or (out.suffix.lstrip(".") if out is not None else "csv")
    check_outputs(models, kind, out, features, maps, pictures, top_k)
    files, root = find_images(images)
    results = predictions(models, files, top_k, tta, features, batch_size, workers)
    with open_table(models, kind, out, top_k, features) as table:
        unreadable = write_predictions(results, files, root, table, models[0].classes, maps, pictures)
    if maps is not None:
        write_class_names(models[0].classes, maps)
    return Predicted(len(files) - len(unreadable), unreadable)


def predict_folder(checkpoint: Path, images: Path, out: Path, device: Device = "auto") -> Predicted:
    """Write the predictions of a detector or segmenter for a folder of images into another folder.

    Writes OUT/pictures, and OUT/detections.json in COCO's layout or OUT/maps with OUT/maps/classes.txt.

    Args:
        checkpoint: Checkpoint of recursivemix transfer.
        images: Folder of images.
        out: Folder to write to; must be new or empty.
        device: cpu, gpu, or auto (a GPU if there is one).

    Raises:
        ValueError: see `predict_files`.
    """
    from recursivemix.models.trained import load_task

    task = load_task(checkpoint, "detection", "instance", "segmentation").task
    if not images.is_dir():
        raise ValueError(f"--images: there is no folder {images}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: {out} is not an empty folder")
    maps = task == "segmentation"
    return predict_files(
        [checkpoint],
        [str(images)],
        out=out / ("shares.csv" if maps else "detections.json"),
        maps=out / "maps" if maps else None,
        pictures=out / "pictures",
        device=device,
    )
