"""Label maps in the layout of ADE20K: a PNG file of class numbers for every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor

from recursivemix.data.annotated import IGNORE, AnnotationError, SegmentationData, SegmentationFormat
from recursivemix.data.decode import as_rgb, open_image_file

MOST_CLASSES = 254
"""Class numbers that fit into a byte beside `IGNORE` and 0."""


class MapImages:
    """Images and their label maps as `SegmentationImages`, read on access.

    Args:
        files: pairs of an image and its label map.
        classes: number of classes, to check the label maps; None for no check.
        first: number of the first class in the label maps: 1 in ADE20K, which ignores 0; 0 in VOC.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]], classes: int | None, first: int) -> None:
        self.files = files
        self.classes = classes
        self.first = first

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, map_path = self.files[index]
        with open_image_file(path) as source:
            image = as_rgb(source)
        numbers = self.numbers(index)
        if numbers.shape != image.shape[-2:]:
            raise AnnotationError(
                f"{map_path} is {numbers.shape[1]}x{numbers.shape[0]}, but its image is {image.shape[2]}x"
                f"{image.shape[1]}"
            )
        ignored = (numbers == IGNORE) | (numbers < self.first)
        label_map = torch.where(ignored, IGNORE, numbers - self.first)
        if self.classes is not None:
            unknown = label_map[(label_map >= self.classes) & ~ignored]
            if len(unknown):
                raise AnnotationError(
                    f"{map_path} has a pixel of class {int(unknown.max()) + self.first}, but there are "
                    f"{self.classes} classes"
                )
        return image, label_map.byte()

    def numbers(self, index: int) -> Tensor:
        """Return the numbers in a label map: (H, W) int64."""
        path = self.files[index][1]
        with open_image_file(path) as source:
            mode = source.mode
            numbers: Tensor = pil_to_tensor(source)[0].long()
        if mode not in ("L", "P", "1") and not mode.startswith("I"):
            raise AnnotationError(
                f"{path} has the colour mode {mode}; a label map has one number per pixel: grey or palette"
            )
        return numbers

    def largest(self) -> int:
        """Return the largest class number in all label maps; reads them all."""
        largest = 0
        for index in range(len(self)):
            numbers = self.numbers(index)
            known = numbers[numbers != IGNORE]
            largest = max(largest, int(known.max()) if len(known) else 0)
        return largest

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.files[index][0])


def open_ade20k(folder: Path) -> SegmentationData:
    """Open images and label maps: ``images/training`` and ``validation`` beside ``annotations/``.

    0 and 255 are ignored; classes count from 1. Their names are the lines of ``classes.txt``, or the last
    column of ``objectInfo150.txt``; without either, the numbers up to the largest in the training maps.

    Raises:
        AnnotationError: an image has no label map or a label map no image; on reading, a label map is
            broken, differs from its image in size, or holds an unknown class.
        ValueError: the folder is missing.
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
    """Return the pairs of image and label map of a split, by name."""
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
        unpaired = sorted(left.keys() - right.keys())
        if unpaired:
            more = ", ..." if len(unpaired) > 3 else ""
            raise AnnotationError(
                f"{len(unpaired)} {what} in {folder}, {split}: {', '.join(unpaired[:3])}{more}"
            )
    if not by_name:
        raise AnnotationError(f"{images} holds no images")
    return [(by_name[name], maps_by_name[name]) for name in sorted(by_name)]


def class_names(folder: Path) -> list[str]:
    """Read the class names of a folder; an empty list if it has no file of them."""
    listed, table = folder / "classes.txt", folder / "objectInfo150.txt"
    if listed.is_file():
        return [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    if table.is_file():
        rows = [line.split("\t") for line in table.read_text().splitlines()[1:] if line.strip()]
        return [row[-1].strip() for row in rows]
    return []


ADE20K = SegmentationFormat(
    open=open_ade20k,
    detect=lambda folder: (folder / "annotations").is_dir(),
    layout="images/training and images/validation beside annotations/",
)
