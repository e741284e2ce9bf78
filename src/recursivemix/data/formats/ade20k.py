"""Label maps in the layout of ADE20K: a PNG file of class numbers for every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor

from recursivemix.data.annotated import (
    IGNORE,
    AnnotatedFormat,
    AnnotationError,
    SegmentationData,
    distinct,
    lines_of,
)
from recursivemix.data.decode import UnreadableImageError, open_image_file, whole_image

MOST_CLASSES = 254
"""Class numbers that fit into a byte beside `IGNORE` and 0."""


class MapImages:
    """Images and their label maps as `SegmentationImages`, read on access.

    Args:
        files: pairs of an image and its label map.
        classes: number of classes.
        first: number of the first class in the label maps: 1 in ADE20K, which ignores 0; 0 in VOC.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int, first: int) -> None:
        self.files = files
        self.classes = classes
        self.first = first

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, map_path = self.files[index]
        image = whole_image(path)
        numbers = read_numbers(map_path)
        if numbers.shape != image.shape[-2:]:
            raise AnnotationError(
                f"{map_path} is {numbers.shape[1]}x{numbers.shape[0]}, but its image is {image.shape[2]}x"
                f"{image.shape[1]}"
            )
        # In place and in as few bytes as possible: label maps can be large.
        ignored = (numbers == IGNORE) | (numbers < self.first)
        unknown = numbers[(numbers >= self.classes + self.first) & ~ignored]
        if len(unknown):
            raise AnnotationError(
                f"{map_path} has a pixel of class {int(unknown.max())}, but there are {self.classes} "
                f"classes"
            )
        return image, numbers.sub_(self.first).masked_fill_(ignored, IGNORE).byte()

    def name(self, index: int) -> str:
        return str(self.files[index][0])


def read_numbers(path: Path) -> Tensor:
    """Return the numbers in a label map: (H, W) uint8, or int32 if its pixels are larger."""
    with open_image_file(path) as source:
        mode = source.mode
        numbers: Tensor = pil_to_tensor(source.convert("I") if mode.startswith("I") else source)[0]
    if mode not in ("L", "P", "1") and not mode.startswith("I"):
        raise AnnotationError(
            f"{path} has the colour mode {mode}; a label map has one number per pixel: grey or palette"
        )
    return numbers if numbers.dtype == torch.uint8 else numbers.int()


def largest_number(files: Sequence[tuple[Path, Path]], skip_bad: bool) -> int:
    """Return the largest class number in all label maps, or in all that can be read."""
    largest = 0
    for _, path in files:
        try:
            numbers = read_numbers(path)
        except (AnnotationError, UnreadableImageError):
            if not skip_bad:
                raise
            continue
        known = numbers[numbers != IGNORE]
        largest = max(largest, int(known.max()) if len(known) else 0)
    return largest


def open_ade20k(folder: Path, skip_bad: bool = False) -> SegmentationData:
    """Open images and label maps: ``images/training`` and ``validation`` beside ``annotations/``.

    0 and 255 are ignored; classes count from 1. Their names are the lines of ``classes.txt``, or the last
    column of ``objectInfo150.txt``; without either, the numbers up to the largest in the training maps.
    ``skip_bad`` leaves out images without label map and label maps without image.

    Raises:
        AnnotationError: an image has no label map or a label map no image; on reading, a label map is
            broken, differs from its image in size, or holds an unknown class.
        ValueError: the folder is missing.
    """
    skipped: list[str] | None = [] if skip_bad else None
    train, evaluation = (pairs_of(folder, split, skipped) for split in ("training", "validation"))
    classes = class_names(folder)
    if not classes:
        classes = [str(k) for k in range(1, largest_number(train, skip_bad) + 1)]
    check_class_count(folder, classes)
    return SegmentationData(
        train=MapImages(train, len(classes), 1),
        evaluation=MapImages(evaluation, len(classes), 1),
        classes=distinct(classes),
        split="validation",
        skipped=tuple(skipped or ()),
    )


def check_class_count(folder: Path, classes: Sequence[str]) -> None:
    """Raise AnnotationError for fewer than two classes, or more than label maps of bytes can hold."""
    if not 1 < len(classes) <= MOST_CLASSES:
        raise AnnotationError(
            f"{folder} must have 2 to {MOST_CLASSES} classes, has {len(classes)}; the background is one of "
            f"them if its pixels are to be found: give it a number that is not ignored, and a name"
        )


def pairs_of(folder: Path, split: str, skipped: list[str] | None = None) -> list[tuple[Path, Path]]:
    """Return the pairs of image and label map of a split, by name.

    Unpaired files are an error, or are listed in ``skipped`` if it is a list.
    """
    images, maps = folder / "images" / split, folder / "annotations" / split
    for place in (images, maps):
        if not place.is_dir():
            raise ValueError(f"there is no folder {place}")
    by_name, maps_by_name = _by_name(images, IMG_EXTENSIONS), _by_name(maps, (".png",))
    for left, right, kind, partner in (
        (by_name, maps_by_name, "images", "label map"),
        (maps_by_name, by_name, "label maps", "image"),
    ):
        unpaired = sorted(left.keys() - right.keys())
        if skipped is not None:
            skipped += [f"{left[name]} has no {partner}" for name in unpaired]
        elif unpaired:
            more = ", ..." if len(unpaired) > 3 else ""
            raise AnnotationError(
                f"{len(unpaired)} {kind} have no {partner} in {folder}, {split}: "
                f"{', '.join(unpaired[:3])}{more}"
            )
    names = sorted(by_name.keys() & maps_by_name.keys())
    if not names:
        raise AnnotationError(f"{images} holds no images with a label map")
    return [(by_name[name], maps_by_name[name]) for name in names]


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the visible files with these suffixes by their name without it, which must be unique."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            other = files.setdefault(path.stem, path)
            if other is not path:
                raise AnnotationError(f"{other} and {path.name} have the same name: remove one")
    return files


def class_names(folder: Path) -> list[str]:
    """Read the class names of a folder; an empty list if it has no file of them."""
    listed, table = folder / "classes.txt", folder / "objectInfo150.txt"
    if listed.is_file():
        return lines_of(listed)
    if table.is_file():
        return [line.split("\t")[-1].strip() for line in lines_of(table)[1:]]
    return []


ADE20K = AnnotatedFormat(
    open=open_ade20k,
    detect=lambda folder: (folder / "annotations").is_dir(),
    layout="images/training and images/validation beside annotations/",
)
