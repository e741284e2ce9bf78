"""Open the images that the training of a classifier was evaluated on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from recursivemix.data.formats.folder import read_classes, split_folders
from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.data.open import detect_format, inapplicable, open_images
from recursivemix.data.printable import first_difference
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import NoEvaluationSplitError, image_data
from recursivemix.models.trained import TrainedModel


def open_measured(trained: TrainedModel, data: Path | None, dataset: Source | None) -> ImageData:
    """Return the data set of a trained classifier with the preprocessing of its training.

    Args:
        trained: the classifier.
        data: folder it was trained on, or another with the same classes; None for the digits.
        dataset: kind of ``data``; None for the kind it was trained on.

    Raises:
        ValueError: data that do not match it.
    """
    checkpoint = trained.path
    preprocessing, about = trained.preprocessing, trained.settings["data"]
    values = {**trained.settings, "data": about.get("folder")}
    origin = ImageSettings.from_plain(
        values | {"dataset": about["dataset"], "val_split": about["val_split"]}
    )
    if data is None and about["dataset"] != "digits" and origin.table is None:
        raise ValueError(f"{checkpoint} was not trained on the digits: name its images with --data DIR")
    settings, is_other = replace(origin, train_images=None, download=False), False
    if data is not None:
        trained_on = "auto" if about["dataset"] == "digits" else about["dataset"]
        settings = replace(settings, data=data, dataset=dataset or trained_on)
        name = detect_format(settings) if settings.dataset == "auto" else settings.dataset
        foreign = inapplicable(settings, name)  # options of the format that it was trained on
        settings = replace(settings, **foreign)
        folder = about.get("folder")
        is_other = bool(foreign) or folder is None or data.resolve() != Path(folder).resolve()
    has_files = data is not None or origin.table is not None
    settings = replace(settings, image_size=preprocessing.size if has_files else None)
    try:
        images = open_split(settings, about["seed"], is_other).prepared(preprocessing)
    except ValueError as error:
        if data is None or dataset is not None or origin.table is None:
            raise
        raise ValueError(
            f"{checkpoint} was trained on the rows of {origin.table}, whose files --data {data} does not "
            f"hold: for images in DIR/test/CLASS add --dataset folder ({error})"
        ) from error
    check_classes(trained, images.classes)
    if images.multi_label != trained.multi_label:
        counts = ("one label", "any number of labels")
        raise ValueError(
            f"{checkpoint} was trained on images of {counts[trained.multi_label]} each, the data has "
            f"{counts[images.multi_label]} per image: give data of the same kind"
        )
    return images


def check_classes(trained: TrainedModel, classes: tuple[str, ...]) -> None:
    """Raise ValueError if the classes of the data are not those of the training."""
    if classes != trained.classes:
        raise ValueError(
            f"{trained.path} was trained on {len(trained.classes)} classes "
            f"({', '.join(trained.classes[:3])}, ...), the data has {len(classes)} "
            f"({', '.join(classes[:3])}, ...): give data of the same classes"
            f"{first_difference(trained.classes, classes)}"
        )


def open_split(settings: ImageSettings, seed: int, is_other: bool) -> ImageData:
    """Open a data set for its evaluation split.

    Args:
        settings: of the training run, with the data set to open.
        seed: of the training run.
        is_other: whether the data set is another than that of the run: it is then split as in training only
            if it has no evaluation split. It may be a folder of one split without training images.

    Raises:
        ValueError: it has none, and training held out no images.
    """
    if is_other and settings.data is not None:
        own = replace(settings, val_split=None, folds=None, fold=0)
        if settings.table is None:
            own = replace(own, holdout=None)
            lone = split_folders(settings.data) if settings.data.is_dir() else {}
            if len(lone) == 1 and "train" not in lone and settings.dataset in ("auto", "folder"):
                ((split, folder),) = lone.items()
                classes, images = read_classes(folder)
                return image_data(own, seed, classes, {"train": images, split: images})
        if own != settings:
            with suppress(NoEvaluationSplitError):
                return open_images(own, seed)
    try:
        return open_images(settings, seed)
    except NoEvaluationSplitError as error:  # its hint is an option of training
        raise ValueError(str(error).rpartition(":")[0] + ": add one, such as DIR/test/CLASS") from error
