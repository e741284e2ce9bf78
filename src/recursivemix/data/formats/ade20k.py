"""Label maps in ADE20K's layout: a PNG of class numbers for every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor

from recursivemix.data.annotated import IGNORE, AnnotationError, SegmentationData

from .folder import as_rgb, opened_file

MOST_CLASSES = 254
"""Numbers that fit a byte beside `IGNORE`."""


class MapImages:
    """Images and their label maps, read on access; see `SegmentationImages`.

    Args:
        files: the image and the map of each.
        classes: K; None does not check.
        first: the number of the first class in the maps: 1 in ADE20K, whose 0 is ignored, 0 in VOC.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int | None, first: int) -> None:
        self.files = files
        self.classes = classes
        self.first = first

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, map_path = self.files[index]
        with opened_file(path) as source:
            image = as_rgb(source)
        numbers = self.numbers(index)
        if numbers.shape != image.shape[-2:]:
            raise AnnotationError(
                f"{map_path} is {numbers.shape[1]}x{numbers.shape[0]}, its image {image.shape[2]}x"
                f"{image.shape[1]}"
            )
        ignored = (numbers == IGNORE) | (numbers < self.first)
        label_map = torch.where(ignored, IGNORE, numbers - self.first)
        if self.classes is not None:
            beyond = label_map[(label_map >= self.classes) & ~ignored]
            if len(beyond):
                raise AnnotationError(
                    f"{map_path} has a pixel of class {int(beyond.max()) + self.first}, but there are "
                    f"{self.classes} classes"
                )
        return image, label_map.byte()

    def numbers(self, index: int) -> Tensor:
        """(H, W) int64: what one map's pixels hold."""
        path = self.files[index][1]
        with opened_file(path) as source:
            mode = source.mode
            numbers: Tensor = pil_to_tensor(source)[0].long()
        if mode not in ("L", "P", "1") and not mode.startswith("I"):
            raise AnnotationError(
                f"{path} is in mode {mode}: a label map has one number a pixel, grey or palette"
            )
        return numbers

    def largest(self) -> int:
        """The largest number of a class in any map; reads them all."""
        largest = 0
        for index in range(len(self)):
            numbers = self.numbers(index)
            known = numbers[numbers != IGNORE]
            largest = max(largest, int(known.max()) if len(known) else 0)
        return largest

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.files[index][0])


def open_ade20k(folder: Path) -> SegmentationData:
    """Images and label maps: ``images/training`` and ``validation`` beside ``annotations/``.

    0 is ignored, and so is 255; classes count from 1. Their names are the lines of ``classes.txt``, or the
    last column of ``objectInfo150.txt``; without either, numbers up to the largest in the training maps.

    Raises:
        AnnotationError: an image without a map or a map without an image; on reading, a map that is no
            label map, is of another size than its image, or holds a number that is no class.
        ValueError: no such folder.
    """
    train, evaluation = (pairs_of(folder, split) for split in ("training", "validation"))
    classes = class_names(folder)
    if not classes:
        classes = [str(k) for k in range(1, MapImages(train, None, 1).largest() + 1)]
    if not 0 < len(classes) <= MOST_CLASSES:
        raise AnnotationError(f"{folder} must have 1 to {MOST_CLASSES} classes, has {len(classes)}")
    return SegmentationData(
        train=MapImages(train, len(classes), 1),
        evaluation=MapImages(evaluation, len(classes), 1),
        classes=tuple(classes),
        split="validation",
    )


def pairs_of(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Images and maps of a split, by name."""
    images, maps = folder / "images" / split, folder / "annotations" / split
    for place in (images, maps):
        if not place.is_dir():
            raise ValueError(f"there is no folder {place}")
    by_name = {p.stem: p for p in images.iterdir() if p.suffix.lower() in IMG_EXTENSIONS}
    maps_by_name = {p.stem: p for p in maps.iterdir() if p.suffix.lower() == ".png"}
    for left, right, what in (
        (by_name, maps_by_name, "images have no label map"),
        (maps_by_name, by_name, "label maps have no image"),
    ):
        alone = sorted(left.keys() - right.keys())
        if alone:
            more = ", ..." if len(alone) > 3 else ""
            raise AnnotationError(f"{len(alone)} {what} in {folder}, {split}: {', '.join(alone[:3])}{more}")
    if not by_name:
        raise AnnotationError(f"{images} holds no images")
    return [(by_name[name], maps_by_name[name]) for name in sorted(by_name)]


def class_names(folder: Path) -> list[str]:
    """The names that a folder's files give its classes; none where there is no such file."""
    listed, table = folder / "classes.txt", folder / "objectInfo150.txt"
    if listed.is_file():
        return [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    if table.is_file():
        rows = [line.split("\t") for line in table.read_text().splitlines()[1:] if line.strip()]
        return [row[-1].strip() for row in rows]
    return []
