"""Boxes and masks in COCO's layout: a JSON of annotations for each split, beside its folder of images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.annotated import AnnotationError, DetectionData, DetectionImages, Objects

from .folder import as_rgb, opened_file

TRAIN, EVALUATION = ("train",), ("val", "test")
"""Names of splits, in the order in which they are looked for."""


class CocoImages:
    """One split; see `DetectionImages`. Images are read on access, annotations once.

    Args:
        file: the JSON.
        folder: of the images.
        masks: read a mask for each object.

    Raises:
        AnnotationError: see `open_coco`.
    """

    def __init__(self, file: Path, folder: Path, masks: bool) -> None:
        self.file = file
        self.folder = folder
        self.masks = masks
        self.dropped = 0
        """Objects of less than a pixel a side, after clipping to their image; they are left out."""
        content = read_json(file)
        self._images = {self._id(one, "image"): one for one in content["images"]}
        if len(self._images) < len(content["images"]):
            raise AnnotationError(f"{file}: two images have one id")
        if not self._images:
            raise AnnotationError(f"{file} has no images")
        self._ids = list(self._images)
        for number, one in self._images.items():
            for key in ("width", "height"):
                if not isinstance(one.get(key), int) or one[key] < 1:
                    raise AnnotationError(f"{file}: image {number} must have a {key}, got {one.get(key)!r}")
            if not isinstance(one.get("file_name"), str):
                raise AnnotationError(f"{file}: image {number} has no file_name")
        self.categories: dict[int, str] = {}
        """Names by id, in ascending order of ids."""
        for one in sorted(content["categories"], key=lambda one: self._id(one, "category")):
            if one["id"] in self.categories:
                raise AnnotationError(f"{file}: two categories have the id {one['id']}")
            self.categories[one["id"]] = str(one.get("name", one["id"]))
        if not self.categories:
            raise AnnotationError(f"{file} has no categories")
        self._place = {number: i for i, number in enumerate(self.categories)}
        self._read_annotations(content["annotations"])
        self._check_files()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        about = self._images[self._ids[index]]
        path = self.folder / about["file_name"]
        with opened_file(path) as source:
            image = as_rgb(source)
        if tuple(image.shape[-2:]) != self.size(index):
            height, width = image.shape[-2:]
            raise AnnotationError(
                f"{self.file}: image {self._ids[index]} is said to be {about['width']}x{about['height']}, "
                f"but {path} is {width}x{height}"
            )
        return image, self.objects(index)

    def objects(self, index: int) -> Objects:
        """The objects of one image; masks are decoded here."""
        first, last = self._range[index], self._range[index + 1]
        masks = None
        if self.masks:
            size = self.size(index)
            own = [self._decoded(k, size) for k in range(first, last)]
            masks = torch.stack(own) if own else torch.zeros(0, *size, dtype=torch.bool)
        return Objects(
            self._boxes[first:last],
            self._labels[first:last],
            self._crowd[first:last],
            self._area[first:last],
            masks,
        )

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of one image."""
        about = self._images[self._ids[index]]
        return about["height"], about["width"]

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.folder / self._images[self._ids[index]]["file_name"])

    def image_id(self, index: int) -> int:
        """The image's id in the file."""
        return self._ids[index]

    # -- reading --------------------------------------------------------------------------------

    def _id(self, one: Any, kind: str) -> int:
        if not isinstance(one, dict) or not isinstance(one.get("id"), int):
            raise AnnotationError(f"{self.file}: an {kind} has no id: {str(one)[:80]}")
        number: int = one["id"]
        return number

    def _read_annotations(self, annotations: Sequence[Any]) -> None:
        """Check all, sort them by image, and keep what is needed as tensors."""
        by_image: dict[int, list[dict[str, Any]]] = {number: [] for number in self._ids}
        seen: set[int] = set()
        for one in annotations:
            number = self._id(one, "annotation")
            if number in seen:
                raise AnnotationError(f"{self.file}: two annotations have the id {number}")
            seen.add(number)
            if one.get("image_id") not in by_image:
                raise AnnotationError(
                    f"{self.file}: annotation {number} is of image {one.get('image_id')}: there is none"
                )
            if one.get("category_id") not in self._place:
                raise AnnotationError(
                    f"{self.file}: annotation {number} is of category {one.get('category_id')}: there is "
                    f"none"
                )
            by_image[one["image_id"]].append(one)
        boxes: list[list[float]] = []
        labels, crowd, area = [], [], []
        self._segmentations: list[Any] = []
        self._annotation_ids: list[int] = []
        self._range = [0]
        for number in self._ids:
            about = self._images[number]
            for one in by_image[number]:
                box = self._clipped(one, about["width"], about["height"])
                if box is None:
                    self.dropped += 1
                    continue
                if self.masks:
                    self._check_segmentation(one, about["width"], about["height"])
                    self._segmentations.append(one["segmentation"])
                boxes.append(box)
                labels.append(self._place[one["category_id"]])
                crowd.append(bool(one.get("iscrowd", 0)))
                own_area = one.get("area")
                area.append(own_area if own_area is not None else (box[2] - box[0]) * (box[3] - box[1]))
                self._annotation_ids.append(one["id"])
            self._range.append(len(boxes))
        self._boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        self._labels = torch.tensor(labels, dtype=torch.long)
        self._crowd = torch.tensor(crowd, dtype=torch.bool)
        self._area = torch.tensor(area, dtype=torch.float32)

    def _clipped(self, one: dict[str, Any], width: int, height: int) -> list[float] | None:
        """An annotation's box inside its image; None if less than a pixel is left."""
        box = one.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
        if not numbers or not all(math.isfinite(v) for v in one["bbox"]):
            raise AnnotationError(
                f"{self.file}: annotation {one['id']} must have a bbox of four numbers, got {box!r}"
            )
        x, y, w, h = one["bbox"]
        if w < 0 or h < 0:
            raise AnnotationError(
                f"{self.file}: annotation {one['id']} has a bbox of negative size: {box}, (x, y, w, h)"
            )
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        return [x1, y1, x2, y2] if x2 - x1 >= 1 and y2 - y1 >= 1 else None

    def _check_segmentation(self, one: dict[str, Any], width: int, height: int) -> None:
        where, found = f"{self.file}: annotation {one['id']}", one.get("segmentation")
        if not found:
            raise AnnotationError(f"{where} has no segmentation, and masks were asked for")
        if isinstance(found, dict):
            size = found.get("size")
            if size != [height, width]:
                raise AnnotationError(
                    f"{where}: its run lengths are of {size}, its image of {[height, width]}"
                )
            counts = found.get("counts")
            if isinstance(counts, list) and sum(counts) != width * height:
                raise AnnotationError(
                    f"{where}: its run lengths are of {sum(counts)} pixels, not {width * height}"
                )
            if not isinstance(counts, list | str):
                raise AnnotationError(f"{where}: its run lengths have no counts")
            return
        if not isinstance(found, list):
            raise AnnotationError(f"{where}: its segmentation is neither polygons nor run lengths")
        for polygon in found:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise AnnotationError(f"{where}: a polygon must have three points or more, x and y of each")

    def _decoded(self, place: int, size: tuple[int, int]) -> Tensor:
        """(H, W) bool of one object."""
        run_lengths = _run_lengths()
        found = self._segmentations[place]
        if isinstance(found, list):
            found = run_lengths.merge(run_lengths.frPyObjects(found, *size))
        elif isinstance(found["counts"], list):
            found = run_lengths.frPyObjects(found, *size)
        try:
            return torch.from_numpy(run_lengths.decode(found)).bool()
        except (ValueError, RuntimeError, IndexError) as error:
            number = self._annotation_ids[place]
            raise AnnotationError(
                f"{self.file}: annotation {number} has broken run lengths ({error})"
            ) from error

    def _check_files(self) -> None:
        """All images at once: one listing of the folder, not a look for each."""
        if not self.folder.is_dir():
            raise AnnotationError(f"there is no folder {self.folder} with the images of {self.file}")
        there = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        missing = [n for n, one in self._images.items() if one["file_name"] not in there]
        if missing:
            first = ", ".join(f"{n} ({self._images[n]['file_name']})" for n in missing[:3])
            raise AnnotationError(
                f"{self.folder} lacks {len(missing)} of {len(self._images)} images of {self.file}: {first}"
                + (", ..." if len(missing) > 3 else "")
            )


def open_coco(folder: Path, *, masks: bool = False) -> DetectionData:
    """A data set in COCO's layout.

    ``annotations/train.json`` beside ``train/``, and ``val`` or ``test``; or with COCO's own names,
    ``annotations/instances_train2017.json`` beside ``train2017/``. Objects are clipped to their image, and
    left out if less than a pixel a side remains.

    Args:
        folder: holds ``annotations`` and the folders of images.
        masks: read a mask for each object: polygons or run lengths.

    Raises:
        AnnotationError: a file that is no such JSON, or an annotation that can't be used, with its id.
        ValueError: a split that is not there, splits of different categories, masks where
            faster-coco-eval is missing.
    """
    if masks:
        _run_lengths()
    train_file, train_folder, _ = find_split(folder, TRAIN)
    file, images, split = find_split(folder, EVALUATION)
    train, evaluation = CocoImages(train_file, train_folder, masks), CocoImages(file, images, masks)
    if train.categories != evaluation.categories:
        raise ValueError(
            f"{train_file} and {file} have different categories: {train.categories} and "
            f"{evaluation.categories}"
        )
    return DetectionData(
        train=train,
        evaluation=evaluation,
        classes=tuple(train.categories.values()),
        category_ids=tuple(train.categories),
        split=split,
        has_masks=masks,
    )


def find_split(folder: Path, names: Sequence[str]) -> tuple[Path, Path, str]:
    """The JSON and the folder of images of a split, and its name; the first of ``names`` that is there."""
    for name in names:
        for file in sorted((folder / "annotations").glob("*.json")):
            found = re.fullmatch(rf"(?:instances_)?({name}(?:\d{{4}})?)", file.stem)
            if found:
                return file, folder / found[1], name
    wanted = " or ".join(f"{name}.json" for name in names)
    raise ValueError(f"{folder / 'annotations'} has no {wanted} (or instances_{names[0]}2017.json)")


def read_json(file: Path) -> dict[str, Any]:
    """A file's three lists."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{file} can't be read as JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f"{file} has no list of {key}")
    lists: dict[str, Any] = content
    return lists


def annotation_dict(images: DetectionImages, data: DetectionData) -> dict[str, Any]:
    """Any images' objects as COCO's evaluation takes them; reads no image.

    Args:
        images: of a split of ``data``.
        data: tells the categories.
    """
    about: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(images)):
        number, (height, width) = images.image_id(index), images.size(index)
        about.append({"id": number, "width": width, "height": height, "file_name": images.name(index)})
        objects = images.objects(index)
        for k, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
            one: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": data.category_ids[int(objects.labels[k])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(objects.area[k]),
                "iscrowd": int(objects.crowd[k]),
            }
            if objects.masks is not None:
                one["segmentation"] = as_run_lengths(objects.masks[k])
            annotations.append(one)
    categories = [{"id": n, "name": name} for n, name in zip(data.category_ids, data.classes, strict=True)]
    return {"images": about, "annotations": annotations, "categories": categories}


def as_run_lengths(mask: Tensor) -> dict[str, Any]:
    """(H, W) bool as COCO's compressed run lengths."""
    import numpy as np

    found: dict[str, Any] = _run_lengths().encode(np.asfortranarray(mask.byte().numpy()))
    counts = found["counts"]
    text: str = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": list(found["size"]), "counts": text}


def _run_lengths() -> Any:
    """The module that packs and unpacks masks."""
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise ValueError("masks need faster-coco-eval: pip install 'recursivemix[transfer]'") from error
    return mask
