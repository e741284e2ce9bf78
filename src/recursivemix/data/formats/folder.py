"""Folders of image files, one folder per class.

Missing or empty folders, and splits of different classes, are refused before training. A file that cannot
be decoded is named when it is read, or left out by ``--skip-bad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.images import EncodedImages, ImageData, ImageFiles, ImageFormat
from recursivemix.data.printable import first_few
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

    Raises:
        ValueError: a folder is missing or empty, the splits have different classes, or a class has no
            readable image.
    """
    root = settings.data
    if root is None or not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    has_train = (root / "train").is_dir()
    split = next((name for name in ("val", "test") if has_train and (root / name).is_dir()), None)
    classes, train = read_classes(root / "train" if has_train else root)
    images = {"train": train}
    if split is not None:
        other, images[split] = read_classes(root / split)
        check_same_classes(str(root), classes, split, other)
    return image_data(settings, seed, classes, images)


def check_not_annotated(root: Path) -> None:
    """Raise ValueError for a folder of annotated images, whose subfolders are no classes."""
    if (root / "train").is_dir() and any(path.is_dir() for path in (root / "train").iterdir()):
        return
    for pattern, (content, task) in ANNOTATED.items():
        if any(root.glob(pattern)):
            raise ValueError(
                f"{root} holds {content}, not a folder of images per class: train on it with recursivemix "
                f"transfer {task}"
            )


def read_classes(folder: Path) -> tuple[tuple[str, ...], EncodedImages]:
    """Return the names of the class folders, sorted, and every image file below them."""
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        present = f"only {names[0]!r}" if names else "none"
        raise ValueError(f"{folder} must hold a folder for each of at least two classes, got {present}")
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
    files = [p for p in folder.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and not p.is_dir()]
    if not files:
        raise ValueError(f"{kind} {folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    return sorted(files)


def check_same_classes(source: str, train: Sequence[str], split: str, other: Sequence[str]) -> None:
    """Raise ValueError if two splits have different classes."""
    missing, extra = sorted(set(train) - set(other)), sorted(set(other) - set(train))
    if missing or extra:
        raise ValueError(
            f"train and {split} of {source} have different classes: only in train: "
            f"{first_few(missing) or 'none'}; only in {split}: {first_few(extra) or 'none'}"
        )


FOLDER = ImageFormat(
    open=image_folder,
    detect=lambda settings: False,  # what every folder is that no other format recognizes
    options=SPLIT_OPTIONS | {"skip_bad"},
)
