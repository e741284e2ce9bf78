"""Folders of image files, one folder per class.

Missing or empty folders, and splits of different classes, are refused before training. A file that cannot
be decoded is named when it is read, or left out by ``--skip-bad``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.images import EncodedImages, ImageData, ImageFiles, ImageFormat
from recursivemix.data.printable import first_few
from recursivemix.data.rows import SPLITS
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import SPLIT_OPTIONS, image_data

ANNOTATED = {
    "annotations/*.json": ("boxes in the layout of COCO", "detection"),
    "annotations/training": ("label maps in the layout of ADE20K", "segmentation"),
    "ImageSets": ("the layout of Pascal VOC", "detection or segmentation"),
}
"""What marks a folder of annotated images, what it holds, and the task that reads it."""


def image_folder(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open a folder that holds ``train/CLASS`` and ``val/CLASS`` or ``test/CLASS``, or CLASS folders alone.

    Splits may have other usual names, see `split_folders`.

    Raises:
        ValueError: a folder is missing or empty, the splits have different classes, or a class has no
            readable image.
    """
    root = settings.data
    if root is None or not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    folders = split_folders(root)
    train_folder, hint = folders.get("train", root), ""
    if "train" in folders and holds_images(train_folder):
        hint = "; train is the name of a split: rename it if it is a class"
    classes, train = read_classes(train_folder, hint)
    if "train" not in folders and all(name.lower() in SPLITS for name in classes):
        raise ValueError(f"{root} holds {first_few(classes)}, but no folder train")
    images = {"train": train}
    names = ("val", "test") if "train" in folders and settings.holdout is None else ()
    split = next((name for name in names if name in folders), None)
    if split is not None:
        hint = "; to evaluate on a part of train instead, add --holdout 0.2"
        other, images[split] = read_classes(folders[split], hint)
        check_same_classes(str(root), classes, split, other)
    return image_data(settings, seed, classes, images)


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of train, val and test, as far as they are there.

    Other usual names count beside a folder for training, such as Training and valid, unless the split has
    its own name too. A folder with the name of a split is a class if it lies beside others, at least two
    for train, none a split, and all hold images directly.
    """
    folders = class_folders(root)
    usual: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for folder in folders:
        if folder.name.lower() in SPLITS:
            usual[SPLITS[folder.name.lower()]].append(folder)
    named = {split: root / split for split, same in usual.items() if root / split in same}
    others = {split: same[0] for split, same in usual.items() if same}
    is_alone = len(named) == len(others) == 1 and len(folders) > (2 if "train" in named else 1)
    if is_alone and all(map(holds_images, folders)) and not any(map(class_folders, named.values())):
        return {}
    return others | named if "train" in others and len(others) > 1 else named


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted, also behind links, without hidden files and folders.

    Hidden are copies of Jupyter in ``.ipynb_checkpoints``, and the ``._NAME`` that macOS adds to archives.
    A folder that links lead to several times is read once, and one around this folder not at all: links can
    go round in circles.
    """
    files: list[Path] = []
    root = folder.resolve()
    read = {root}
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders.sort()  # which of several links is followed does not depend on the file system
        for name in [*folders]:
            target = (here / name).resolve()
            if name.startswith(".") or target in read or root.is_relative_to(target):
                folders.remove(name)
            else:
                read.add(target)
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(files)


def is_image_file(path: Path) -> bool:
    """Tell whether a file has the suffix of an image."""
    return path.suffix.lower() in IMG_EXTENSIONS


def holds_images(folder: Path) -> bool:
    """Tell whether an image lies directly in a folder."""
    return any(is_image_file(path) for path in folder.iterdir())


def check_not_annotated(root: Path) -> None:
    """Raise ValueError for a folder of annotated images, whose subfolders are no classes."""
    train = split_folders(root).get("train")
    if train is not None and class_folders(train):
        return
    for pattern, (content, task) in ANNOTATED.items():
        if any(root.glob(pattern)):
            raise ValueError(
                f"{root} holds {content}, not a folder of images per class: train on it with recursivemix "
                f"transfer {task}"
            )


def read_classes(folder: Path, hint: str = "") -> tuple[tuple[str, ...], EncodedImages]:
    """Return the names of the class folders, sorted, and every image file below them.

    The ``hint`` is added to the error for a folder without class folders.
    """
    names = tuple(path.name for path in class_folders(folder))
    if len(names) < 2:
        present = f"only {names[0]!r}" if names else "none"
        raise ValueError(
            f"{folder} must hold a folder for each of at least two classes, got {present}{hint}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(names):
        images = image_files(folder / name, "the class folder")
        paths += images
        labels += [index] * len(images)
    return names, EncodedImages(ImageFiles(paths), torch.tensor(labels))


def image_files(folder: Path, kind: str) -> list[Path]:
    """Return the image files below a folder, sorted; raise ValueError if there is none.

    ``kind`` is how the message calls the folder.
    """
    files = [path for path in files_below(folder) if is_image_file(path)]
    if not files:
        raise ValueError(f"{kind} {folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    return files


def check_same_classes(source: str, train: Sequence[str], split: str, other: Sequence[str]) -> None:
    """Raise ValueError if two splits have different classes."""
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    if missing or extra:
        raise ValueError(
            f"train and {split} of {source} have different classes: only in train: "
            f"{first_few(missing) or 'none'}; only in {split}: {first_few(extra) or 'none'}"
        )


def _has_class_folders(settings: ImageSettings) -> bool:
    """Tell whether an image lies directly in a class folder."""
    root = settings.data
    if root is None or not root.is_dir():
        return False
    folders = class_folders(split_folders(root).get("train", root))
    return any(map(holds_images, folders))


FOLDER = ImageFormat(open=image_folder, detect=_has_class_folders, options=SPLIT_OPTIONS | {"skip_bad"})
