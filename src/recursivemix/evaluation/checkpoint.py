"""Open a classifier's checkpoint with the images that its training was evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.models.trained import TrainedModel, load_task


def open_measured(
    checkpoint: Path, data: Path | None, dataset: Source | None
) -> tuple[TrainedModel, ImageData]:
    """Return a trained classifier, and its data set with the preprocessing of its training.

    Args:
        checkpoint: file written by `fit`.
        data: folder it was trained on, or another with the same classes; None for the digits.
        dataset: kind of ``data``; None for the kind it was trained on.

    Raises:
        ValueError: a file that is no such checkpoint, or data that do not match it.
    """
    trained = load_task(checkpoint, "classification")
    preprocessing, origin = trained.preprocessing, trained.settings["data"]
    if data is None and origin["dataset"] != "digits":
        raise ValueError(f"{checkpoint} was not trained on the digits: name its images with --data DIR")
    kind: Source = "auto" if data is None else dataset or origin["dataset"]
    has_split = data is None or any((data / name).is_dir() for name in ("val", "test"))
    if not has_split and origin["val_split"] is None and kind == "folder":
        raise ValueError(f"{data} must have a val or test folder to measure on")
    images = open_data(
        data,
        kind,
        val_split=None if has_split else origin["val_split"],
        image_size=None if data is None else preprocessing.size,
        seed=origin["seed"],
    )
    images = replace(images, mean=preprocessing.mean, std=preprocessing.std)
    if images.classes != trained.classes:
        raise ValueError(
            f"{checkpoint} was trained on {len(trained.classes)} classes "
            f"({', '.join(trained.classes[:3])}, ...), the data has {len(images.classes)} "
            f"({', '.join(images.classes[:3])}, ...): give data of the same classes"
        )
    return trained, images
