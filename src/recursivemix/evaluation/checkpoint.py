"""Open a classifier's checkpoint with the images that its training was evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.data.open import open_images
from recursivemix.data.settings import ImageSettings
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
    preprocessing, about = trained.preprocessing, trained.settings["data"]
    values = {**trained.settings, "data": about.get("folder")}
    origin = ImageSettings.from_plain(
        values | {"dataset": about["dataset"], "val_split": about["val_split"]}
    )
    if data is None and about["dataset"] != "digits" and origin.table is None:
        raise ValueError(f"{checkpoint} was not trained on the digits: name its images with --data DIR")
    settings = replace(origin, train_images=None, download=False)
    if data is not None:
        trained_on = "auto" if about["dataset"] == "digits" else about["dataset"]
        settings = replace(settings, data=data, dataset=dataset or trained_on)
        if any((data / name).is_dir() for name in ("val", "test")):
            settings = replace(settings, val_split=None, folds=None, fold=0)
            if str(data.absolute()) != about.get("folder"):  # of other data, the images for evaluation
                settings = replace(settings, holdout=None)
    has_files = data is not None or origin.table is not None
    settings = replace(settings, image_size=preprocessing.size if has_files else None)
    images = open_images(settings, about["seed"])
    images = images.prepared(preprocessing)
    if images.classes != trained.classes:
        raise ValueError(
            f"{checkpoint} was trained on {len(trained.classes)} classes "
            f"({', '.join(trained.classes[:3])}, ...), the data has {len(images.classes)} "
            f"({', '.join(images.classes[:3])}, ...): give data of the same classes"
        )
    return trained, images
