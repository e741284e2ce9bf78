"""Open a data set of labelled images, whatever its format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .formats.folder import check_not_annotated
from .images import ImageData, ImageFormat
from .names import IMAGE_FORMATS, Source, load_format
from .order import generator_of
from .settings import ImageSettings
from .splits import held_out, stratified_subset

OF_ALL_FORMATS = {
    "dataset", "train_images", "holdout", "exact_decoding", "max_pixels", "split_seed", "download",
}  # fmt: skip
"""Fields of `ImageSettings` that apply to every format. Those of decoding change nothing if the images are
not encoded; a permission to download is not asked for, or is for pretrained weights."""


def open_data(
    data: Path | None = None, dataset: Source = "auto", *, seed: int = 0, **options: Any
) -> ImageData:
    """Open a data set; the keyword arguments are the fields of `ImageSettings`, see `open_images`."""
    return open_images(ImageSettings(data=data, dataset=dataset, **options), seed)


def open_images(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open the data set of a run.

    Args:
        settings: which data set, and how to split it.
        seed: of held-out images, folds and the subset of training images, unless the settings have a
            ``split_seed``.

    Raises:
        ValueError: the data set is missing or broken, or an option does not apply to it; the message says
            how to fix it.
    """
    if settings.split_seed is not None:
        seed = settings.split_seed
    return chosen_images(open_format(settings, seed), settings, seed)


def open_format(settings: ImageSettings, seed: int) -> ImageData:
    """Open a data set as its format does, which leaves ``holdout`` and ``train_images`` to be applied."""
    name = detect_format(settings) if settings.dataset == "auto" else settings.dataset
    image_format: ImageFormat = load_format(IMAGE_FORMATS, name)
    needs = image_format.needs
    if needs is not None and getattr(settings, needs) is None:
        raise ValueError(f"--dataset {name} needs --{needs}: the name or the path of the data set")
    for option in inapplicable(settings, name):
        flag = f"--{option.replace('_', '-')}"
        raise ValueError(f"{flag} does not apply to --dataset {name}: leave out one of them")
    return image_format.open(settings, seed)


def chosen_images(images: ImageData, settings: ImageSettings, seed: int) -> ImageData:
    """Return a data set after ``holdout`` and ``train_images``."""
    if settings.holdout is not None:
        kept, held = held_out(images.train.labels, images.classes, settings.holdout, seed)
        train, evaluation = images.train.select(kept), images.train.select(held)
        images = replace(images, train=train, evaluation=evaluation, split="held out")
    if settings.train_images is None:
        return images
    generator = generator_of(seed, "train images")
    chosen = stratified_subset(images.train.labels, settings.train_images, generator)
    return replace(images, train=images.train.select(chosen))


def inapplicable(settings: ImageSettings, name: str) -> dict[str, Any]:
    """Return the fields that are set but do not apply to a format, with their defaults."""
    image_format: ImageFormat = load_format(IMAGE_FORMATS, name)
    applicable = image_format.options | OF_ALL_FORMATS | {image_format.needs}
    defaults = vars(ImageSettings())
    return {
        field: default
        for field, default in defaults.items()
        if field not in applicable and getattr(settings, field) != default
    }


def detect_format(settings: ImageSettings) -> str:
    """Return the name of the format that recognizes the data; raise ValueError for none or several.

    A folder that no format recognizes is a "folder", which names what it lacks.
    """
    if settings.table is not None:
        return "table"
    formats: dict[str, ImageFormat] = {name: load_format(IMAGE_FORMATS, name) for name in IMAGE_FORMATS}
    names = [name for name, image_format in formats.items() if image_format.detect(settings)]
    if len(names) > 1:
        raise ValueError(
            f"{settings.data} holds several data sets, {', '.join(names)}: choose with --dataset"
        )
    if names and names != ["folder"]:
        return names[0]
    if settings.data is not None and settings.data.is_dir():
        check_not_annotated(settings.data)
        return "folder"
    if settings.data is not None and settings.data.is_file():
        raise ValueError(
            f"{settings.data} is a file of no known format; a table of images is given as --table"
        )
    raise ValueError(
        f"there is no folder {settings.data}; for a data set of the Hugging Face hub add --dataset hf, and "
        f"--download the first time"
    )
