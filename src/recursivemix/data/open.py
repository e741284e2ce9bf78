"""Which data set a name or a folder is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from recursivemix.data.formats.cifar import cifar, find_cifar
from recursivemix.data.formats.digits import digits
from recursivemix.data.formats.folder import image_folder
from recursivemix.data.formats.hub import hugging_face

from .images import ImageData, fewer
from .names import Source
from .order import generator_of


def open_data(
    data: Path | None,
    dataset: Source = "auto",
    *,
    download: bool = False,
    val_split: float | None = None,
    image_size: int | None = None,
    train_images: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> ImageData:
    """The images of a run.

    Args:
        data: a folder, or the name of a Hugging Face data set; None is the digits.
        dataset: what ``data`` is; "auto" looks into it.
        download: fetch what is not there; nothing else reaches the network.
        val_split: share of every class to hold out, where there is no val or test split.
        image_size: pixels a side for the network; None is the images' own size up to 64, else 224.
        train_images: train on so many of the training images, of every class its share; None is all.
        skip_bad: leave unreadable files out, after reading every one once.
        seed: of the held-out share, and of the choice of training images.

    Raises:
        ValueError: what is missing, or does not go together, and how to mend it.
    """
    images = _open(
        data,
        dataset,
        download=download,
        val_split=val_split,
        image_size=image_size,
        skip_bad=skip_bad,
        seed=seed,
    )
    if train_images is None:
        return images
    return replace(images, train=fewer(images.train, train_images, generator_of(seed, "train images")))


def _open(
    data: Path | None,
    dataset: Source,
    *,
    download: bool,
    val_split: float | None,
    image_size: int | None,
    skip_bad: bool,
    seed: int,
) -> ImageData:
    """The whole data set, see `open_data`."""
    if data is None:
        if dataset not in ("auto", "digits"):
            raise ValueError(f"--dataset {dataset} needs to know where it is: --data DIR")
        if val_split is not None or image_size is not None:
            raise ValueError("--val-split and --image-size belong to a folder of images: give --data DIR")
        return digits()
    if dataset == "digits":
        raise ValueError("--dataset digits are the handwritten digits of scikit-learn: leave --data out")
    kind = _look(data) if dataset == "auto" else dataset
    if download and kind == "folder":
        raise ValueError("--download needs to know what: --dataset cifar10, cifar100 or hf")
    if skip_bad and kind != "folder":
        raise ValueError(f"--skip-bad is for folders of image files; {data} is {kind}")
    if kind == "hf":
        return hugging_face(
            str(data), download=download, val_split=val_split, image_size=image_size, seed=seed
        )
    if kind == "folder":
        return image_folder(data, val_split=val_split, image_size=image_size, skip_bad=skip_bad, seed=seed)
    if val_split is not None:
        raise ValueError(f"{kind} has a test split, so --val-split has nothing to split: leave it out")
    images = cifar(data, kind, download=download)
    return images if image_size is None else replace(images, image_size=image_size)


def _look(data: Path) -> Literal["folder", "cifar10", "cifar100", "hf"]:
    if not data.exists():
        raise ValueError(
            f"there is no folder {data}; a data set of the Hugging Face hub needs --dataset hf, and "
            f"--download the first time"
        )
    if (data / "dataset_dict.json").is_file() or (data / "dataset_info.json").is_file():
        return "hf"
    return find_cifar(data) or "folder"
