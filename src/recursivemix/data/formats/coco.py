"""Boxes and masks in COCO's layout: a JSON file of annotations per split, beside its folder of images."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recursivemix.data.annotated import (
    LARGEST_SIDE,
    AnnotatedFormat,
    AnnotationError,
    DetectionData,
    DetectionImages,
    Objects,
    distinct,
    is_finite,
    passing,
    shortened,
)
from recursivemix.data.decode import open_image_file, whole_image

from .coco_masks import as_run_lengths, check_segmentation, decode_mask, require_masks
from .folder import files_below

TRAIN, EVALUATION = ("train",), ("val", "test")
"""Names of splits, in order of preference."""


class Image(NamedTuple):
    """One entry of ``images``."""

    id: int
    file_name: str
    size: tuple[int, int]
    """(H, W)"""


class Annotation(NamedTuple):
    """One entry of ``annotations``, checked."""

    id: int
    box: tuple[float, float, float, float]
    """``(x1, y1, x2, y2)`` in pixels, clipped to the image."""
    label: int
    crowd: bool
    area: float
    segmentation: Any
    """Polygons or run lengths; None if masks are not read."""


class CocoImages:
    """One split as `DetectionImages`; annotations are read once, images on access.

    Images that are missing or have a broken annotation are left out, and the reasons appended to
    ``skipped``; None raises an error instead, as in `open_coco`.
    """

    def __init__(self, file: Path, folder: Path, masks: bool, skipped: list[str] | None = None) -> None:
        self.file = file
        self.folder = folder
        self.masks = masks
        content = read_json(file)
        self.categories = read_categories(file, content["categories"])
        """Names by id, in ascending order of ids."""
        self._class_of = {number: label for label, number in enumerate(self.categories)}
        images = self._read_images(content["images"], skipped)
        annotations = self._read_annotations(content["annotations"], images, skipped)
        self._images = [images[number] for number in annotations]
        if not self._images:
            raise AnnotationError(f"{file} has no image without a broken annotation")
        entries = [one for of_image in annotations.values() for one in of_image]
        if not entries:
            raise AnnotationError(f"{file} has no object in its {len(images)} images")
        self._range = [0, *accumulate(len(of_image) for of_image in annotations.values())]
        self._boxes = torch.tensor([one.box for one in entries], dtype=torch.float32).view(-1, 4)
        self._labels = torch.tensor([one.label for one in entries], dtype=torch.long)
        self._crowd = torch.tensor([one.crowd for one in entries], dtype=torch.bool)
        self._area = torch.tensor([one.area for one in entries], dtype=torch.float32)
        self._segmentations = [(one.id, one.segmentation) for one in entries] if masks else []

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        image = whole_image(Path(self.name(index)))
        self._check_size(index, (image.shape[-1], image.shape[-2]))
        return image, self._objects(index)

    def objects(self, index: int) -> Objects:
        """Return the objects of an image; decodes their masks."""
        if self.masks:  # the size of a mask must be that of a real image, or it could be of any size
            with open_image_file(Path(self.name(index))) as source:
                size = source.size
            self._check_size(index, size)
        return self._objects(index)

    def size(self, index: int) -> tuple[int, int]:
        return self._images[index].size

    def name(self, index: int) -> str:
        return str(self.folder / self._images[index].file_name)

    def image_id(self, index: int) -> int:
        return self._images[index].id

    def _check_size(self, index: int, actual: tuple[int, int]) -> None:
        height, width = self.size(index)
        if actual != (width, height):
            raise AnnotationError(
                f"{self.file}: image {self.image_id(index)} is annotated as {width}x{height}, but "
                f"{self.name(index)} is {actual[0]}x{actual[1]}"
            )

    def _objects(self, index: int) -> Objects:
        part = slice(self._range[index], self._range[index + 1])
        masks = None
        if self.masks:
            size = self.size(index)
            masks = torch.zeros(part.stop - part.start, *size, dtype=torch.bool)
            for mask, (number, segmentation) in zip(masks, self._segmentations[part], strict=True):
                mask.copy_(decode_mask(f"{self.file}: annotation {number}", segmentation, size))
        return Objects(self._boxes[part], self._labels[part], self._crowd[part], self._area[part], masks)

    # -- reading --------------------------------------------------------------------------------

    def _read_images(self, entries: Sequence[Any], skipped: list[str] | None) -> dict[int, Image]:
        """Return the images by id."""
        images: dict[int, Image] = {}

        def add(entry: Any) -> None:
            number = id_of(self.file, entry, "image")
            if number in images:
                raise AnnotationError(f"{self.file}: two images have the id {number}")
            for key in ("width", "height"):
                value = entry.get(key)
                if not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
                    raise AnnotationError(
                        f"{self.file}: image {number} must have a {key} of 1 to {LARGEST_SIDE} pixels, got "
                        f"{shortened(value)}"
                    )
            if not isinstance(entry.get("file_name"), str):
                raise AnnotationError(f"{self.file}: image {number} has no file_name")
            images[number] = Image(number, entry["file_name"], (entry["height"], entry["width"]))

        passing(add, entries, skipped)
        if not images:
            raise AnnotationError(f"{self.file} has no images")
        return images

    def _with_file(self, images: Iterable[Image], skipped: list[str] | None) -> list[Image]:
        """Return the images whose file exists."""
        if not self.folder.is_dir():
            raise AnnotationError(f"there is no folder {self.folder} with the images of {self.file}")
        # One listing of the folder is faster than a test of each file.
        present = {str(p.relative_to(self.folder)) for p in files_below(self.folder) if p.is_file()}

        def check(image: Image) -> Image:
            if os.path.normpath(image.file_name) not in present:
                raise AnnotationError(
                    f"{self.file}: image {image.id}: {self.folder} has no file {shortened(image.file_name)}"
                )
            return image

        return passing(check, images, skipped)

    def _read_annotations(
        self, entries: Sequence[Any], images: dict[int, Image], skipped: list[str] | None
    ) -> dict[int, list[Annotation]]:
        """Return the annotations of each image by its id, without the images to leave out."""
        annotations: dict[int, list[Annotation]] = {
            image.id: [] for image in self._with_file(images.values(), skipped)
        }
        seen: set[int] = set()

        def add(entry: Any) -> None:
            number = id_of(self.file, entry, "annotation")
            where = f"{self.file}: annotation {number}"
            image = _reference(where, entry, "image_id", images)
            others = annotations.pop(image, None)  # stays out if this annotation is broken
            if number in seen:
                raise AnnotationError(f"{self.file}: two annotations have the id {number}")
            seen.add(number)
            annotation = self._annotation(where, entry, images[image].size)
            if others is not None:
                annotations[image] = others
                others += [] if annotation is None else [annotation]

        passing(add, entries, skipped)
        return {number: annotations[number] for number in images if number in annotations}

    def _annotation(self, where: str, entry: dict[str, Any], size: tuple[int, int]) -> Annotation | None:
        """Check an annotation; None if a side of its box is below one pixel inside the image."""
        label = self._class_of[_reference(where, entry, "category_id", self._class_of)]
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            raise AnnotationError(f"{where} must have a bbox of four finite numbers, got {shortened(box)}")
        x, y, width, height = box
        if width < 0 or height < 0:
            raise AnnotationError(f"{where} has a bbox of negative size: {box}, (x, y, width, height)")
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])
        if x2 - x1 < 1 or y2 - y1 < 1:
            return None
        area = entry.get("area")
        area = (x2 - x1) * (y2 - y1) if area is None else area
        if not is_finite(area) or area < 0:
            raise AnnotationError(f"{where} must have an area of at least 0 pixels, got {shortened(area)}")
        crowd = entry.get("iscrowd")
        if crowd not in (None, 0, 1):
            raise AnnotationError(f"{where} must have an iscrowd of 0 or 1, got {shortened(crowd)}")
        segmentation = entry.get("segmentation") if self.masks else None
        if self.masks:
            check_segmentation(where, segmentation, size)
        return Annotation(entry["id"], (x1, y1, x2, y2), label, bool(crowd), area, segmentation)


def _reference(where: str, entry: dict[str, Any], key: str, known: Container[int]) -> int:
    """Return the id under this key, which must be one of those known."""
    number = entry.get(key)
    if not isinstance(number, int | float) or number not in known:
        raise AnnotationError(f"{where} has the {key} {shortened(number)}, which does not exist")
    return int(number)


def id_of(file: Path, entry: Any, kind: str) -> int:
    """Return the id of an entry of this kind."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
        raise AnnotationError(
            f"{file}: an entry of {kind} has no id that is a whole number: {shortened(entry)}"
        )
    number: int = entry["id"]
    return number


def read_categories(file: Path, entries: Sequence[Any]) -> dict[int, str]:
    """Return the names of the categories by id, in ascending order of ids."""
    categories: dict[int, str] = {}
    for entry in sorted(entries, key=lambda entry: id_of(file, entry, "category")):
        number, name = entry["id"], entry.get("name", entry["id"])
        if number in categories:
            raise AnnotationError(f"{file}: two categories have the id {number}")
        if not isinstance(name, str | int | float):
            raise AnnotationError(f"{file}: category {number} must have a name, got {shortened(name)}")
        categories[number] = str(name)
    if not categories:
        raise AnnotationError(f"{file} has no categories")
    return categories


def open_coco(folder: Path, *, masks: bool = False, skip_bad: bool = False) -> DetectionData:
    """Open a data set in COCO's layout.

    ``annotations/train.json`` beside ``train/``, and ``val`` or ``test``; or with the official names,
    ``annotations/instances_train2017.json`` beside ``train2017/``. Objects are clipped to their image, and
    left out if a side is then below one pixel. ``masks`` reads a mask for each object: polygons or run
    lengths. ``skip_bad`` leaves out images that are missing or have a broken annotation.

    Raises:
        AnnotationError: a file is not such JSON, an image is missing, or an annotation is broken.
        ValueError: a split is missing, the splits have different categories, or masks are requested and
            faster-coco-eval is not installed.
    """
    if masks:
        require_masks()
    train_file, train_folder, _ = find_split(folder, TRAIN)
    file, image_folder, split = find_split(folder, EVALUATION)
    skipped: list[str] | None = [] if skip_bad else None
    train = CocoImages(train_file, train_folder, masks, skipped)
    evaluation = CocoImages(file, image_folder, masks, skipped)
    for number in sorted(train.categories.keys() | evaluation.categories.keys()):
        first, second = (images.categories.get(number) for images in (train, evaluation))
        if first != second:
            raise ValueError(
                f"{train_file} and {file} have different categories: {number} is {shortened(first)} and "
                f"{shortened(second)}"
            )
    return DetectionData(
        train=train,
        evaluation=evaluation,
        classes=distinct(train.categories.values()),
        category_ids=tuple(train.categories),
        split=split,
        has_masks=masks,
        skipped=tuple(skipped or ()),
    )


def find_split(folder: Path, names: Sequence[str]) -> tuple[Path, Path, str]:
    """Return the JSON file, the image folder and the name of the first split of ``names`` that exists."""
    for name in names:
        for file in sorted((folder / "annotations").glob("*.json")):
            match = re.fullmatch(rf"(?:instances_)?({name}(?:\d{{4}})?)", file.stem)
            if match:
                return file, folder / match[1], name
    wanted = " or ".join(f"{name}.json" for name in names)
    raise ValueError(f"{folder / 'annotations'} has no {wanted} (or instances_{names[0]}2017.json)")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of annotations and check that it has its three lists."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{file} is not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f"{file} has no list of {key}")
    lists: dict[str, Any] = content
    return lists


def annotation_dict(images: DetectionImages, data: DetectionData) -> dict[str, Any]:
    """Return the objects of any images in COCO's format, for its evaluation; reads no image.

    Args:
        images: one split of ``data``.
        data: gives the categories.
    """
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(images)):
        number, (height, width) = images.image_id(index), images.size(index)
        entries.append({"id": number, "width": width, "height": height, "file_name": images.name(index)})
        objects = images.objects(index)
        for k, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": data.category_ids[int(objects.labels[k])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(objects.area[k]),
                "iscrowd": int(objects.crowd[k]),
            }
            if objects.masks is not None:
                annotation["segmentation"] = as_run_lengths(objects.masks[k])
            annotations.append(annotation)
    categories = [{"id": n, "name": name} for n, name in zip(data.category_ids, data.classes, strict=True)]
    return {"images": entries, "annotations": annotations, "categories": categories}


COCO = AnnotatedFormat(
    open=open_coco,
    detect=lambda folder: (folder / "annotations").is_dir(),
    layout="annotations/train.json and val.json beside train/ and val/",
)
