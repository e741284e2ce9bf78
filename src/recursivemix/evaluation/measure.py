"""Open the images that a checkpoint was evaluated on during training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recursivemix.data.images import ImageData
from recursivemix.data.open import Source, open_data
from recursivemix.models.trained import TrainedModel, load_task


def open_measured(
    checkpoint: Path, data: Path | None, dataset: Source | None
) -> tuple[TrainedModel, ImageData]:
    """Load a classifier, and open the images that its training was evaluated on, with its preprocessing.

    Args:
        checkpoint: written by `fit`.
        data: the folder it was trained on, or another with the same classes; None: the digits.
        dataset: what ``data`` is; None is what the network was trained on.

    Raises:
        ValueError: no such checkpoint, or data that do not belong to it.
    """
    trained = load_task(checkpoint, "classification")
    colors, origin = trained.preprocessing, trained.settings["data"]
    if data is None and origin["dataset"] != "digits":
        raise ValueError(f"{checkpoint} was trained on other images: name them with --data DIR")
    kind: Source = "auto" if data is None else dataset or origin["dataset"]
    has_split = data is None or any((data / name).is_dir() for name in ("val", "test"))
    if not has_split and origin["val_split"] is None and kind == "folder":
        raise ValueError(f"{data} has no val or test folder to measure on")
    images = open_data(
        data,
        kind,
        val_split=None if has_split else origin["val_split"],
        image_size=None if data is None else colors.size,
        seed=origin["seed"],
    )
    images = replace(images, mean=colors.mean, std=colors.std)
    if images.classes != trained.classes:
        raise ValueError(
            f"{checkpoint} knows {len(trained.classes)} classes ({', '.join(trained.classes[:3])}, ...), "
            f"the data has {len(images.classes)} ({', '.join(images.classes[:3])}, ...)"
        )
    return trained, images
