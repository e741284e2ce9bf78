"""Boxes and masks in COCO's layout: a JSON file of annotations per split, beside its folder of images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.annotated import (
    AnnotationError,
    DetectionData,
    DetectionFormat,
    DetectionImages,
    Objects,
)
from recursivemix.data.decode import as_rgb, open_image_file

TRAIN, EVALUATION = ("train",), ("val", "test")
"""Names of splits, in order of preference."""


class CocoImages:
    """One split as `DetectionImages`; annotations are read once, images on access.

    Args:
        file: the JSON file of annotations.
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
        """Number of objects left out because a side is below one pixel after clipping to the image."""
        content = read_json(file)
        self._images = {self._id(entry, "image"): entry for entry in content["images"]}
        if len(self._images) < len(content["images"]):
            raise AnnotationError(f"{file}: two images have the same id")
        if not self._images:
            raise AnnotationError(f"{file} has no images")
        self._ids = list(self._images)
        for number, entry in self._images.items():
            for key in ("width", "height"):
                if not isinstance(entry.get(key), int) or entry[key] < 1:
                    raise AnnotationError(
                        f"{file}: image {number} must have a {key}, got {entry.get(key)!r}"
                    )
            if not isinstance(entry.get("file_name"), str):
                raise AnnotationError(f"{file}: image {number} has no file_name")
        self.categories: dict[int, str] = {}
        """Names by id, in ascending order of ids."""
        for entry in sorted(content["categories"], key=lambda entry: self._id(entry, "category")):
            if entry["id"] in self.categories:
                raise AnnotationError(f"{file}: two categories have the id {entry['id']}")
            self.categories[entry["id"]] = str(entry.get("name", entry["id"]))
        if not self.categories:
            raise AnnotationError(f"{file} has no categories")
        self._class_of = {number: label for label, number in enumerate(self.categories)}
        self._read_annotations(content["annotations"])
        self._check_files()

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        path = Path(self.name(index))
        with open_image_file(path) as source:
            image = as_rgb(source)
        annotated, actual = self.size(index), tuple(image.shape[-2:])
        if actual != annotated:
            raise AnnotationError(
                f"{self.file}: image {self._ids[index]} is annotated as {annotated[1]}x{annotated[0]}, but "
                f"{path} is {actual[1]}x{actual[0]}"
            )
        return image, self.objects(index)

    def objects(self, index: int) -> Objects:
        """Return the objects of an image; decodes their masks."""
        first, last = self._range[index], self._range[index + 1]
        masks = None
        if self.masks:
            size = self.size(index)
            decoded = [self._decode_mask(k, size) for k in range(first, last)]
            masks = torch.stack(decoded) if decoded else torch.zeros(0, *size, dtype=torch.bool)
        return Objects(
            self._boxes[first:last],
            self._labels[first:last],
            self._crowd[first:last],
            self._area[first:last],
            masks,
        )

    def size(self, index: int) -> tuple[int, int]:
        """Return the annotated (H, W) of an image."""
        entry = self._images[self._ids[index]]
        return entry["height"], entry["width"]

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.folder / self._images[self._ids[index]]["file_name"])

    def image_id(self, index: int) -> int:
        """Return the id of an image in the file."""
        return self._ids[index]

    # -- reading --------------------------------------------------------------------------------

    def _id(self, entry: Any, kind: str) -> int:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            raise AnnotationError(f"{self.file}: an entry of {kind} has no id: {str(entry)[:80]}")
        number: int = entry["id"]
        return number

    def _read_annotations(self, annotations: Sequence[Any]) -> None:
        """Check all annotations, group them by image and keep them as tensors."""
        by_image: dict[int, list[dict[str, Any]]] = {number: [] for number in self._ids}
        seen: set[int] = set()
        for entry in annotations:
            number = self._id(entry, "annotation")
            if number in seen:
                raise AnnotationError(f"{self.file}: two annotations have the id {number}")
            seen.add(number)
            for key, known in (("image_id", by_image), ("category_id", self._class_of)):
                if entry.get(key) not in known:
                    raise AnnotationError(
                        f"{self.file}: annotation {number} has the {key} {entry.get(key)}, which does not "
                        f"exist"
                    )
            by_image[entry["image_id"]].append(entry)
        boxes: list[list[float]] = []
        labels, crowd, area = [], [], []
        self._segmentations: list[Any] = []
        self._annotation_ids: list[int] = []
        self._range = [0]
        for number in self._ids:
            image = self._images[number]
            for entry in by_image[number]:
                box = self._clipped_box(entry, image["width"], image["height"])
                if box is None:
                    self.dropped += 1
                    continue
                if self.masks:
                    self._check_segmentation(entry, image["width"], image["height"])
                    self._segmentations.append(entry["segmentation"])
                boxes.append(box)
                labels.append(self._class_of[entry["category_id"]])
                crowd.append(bool(entry.get("iscrowd", 0)))
                annotated = entry.get("area")
                area.append((box[2] - box[0]) * (box[3] - box[1]) if annotated is None else annotated)
                self._annotation_ids.append(entry["id"])
            self._range.append(len(boxes))
        self._boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        self._labels = torch.tensor(labels, dtype=torch.long)
        self._crowd = torch.tensor(crowd, dtype=torch.bool)
        self._area = torch.tensor(area, dtype=torch.float32)

    def _clipped_box(self, entry: dict[str, Any], width: int, height: int) -> list[float] | None:
        """Return the box of an annotation, clipped to its image; None if a side is below one pixel."""
        box = entry.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
        if not numbers or not all(math.isfinite(v) for v in entry["bbox"]):
            raise AnnotationError(
                f"{self.file}: annotation {entry['id']} must have a bbox of four finite numbers, got "
                f"{box!r}"
            )
        x, y, w, h = entry["bbox"]
        if w < 0 or h < 0:
            raise AnnotationError(
                f"{self.file}: annotation {entry['id']} has a bbox of negative size: {box}, (x, y, w, h)"
            )
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        return [x1, y1, x2, y2] if x2 - x1 >= 1 and y2 - y1 >= 1 else None

    def _check_segmentation(self, entry: dict[str, Any], width: int, height: int) -> None:
        where, segmentation = f"{self.file}: annotation {entry['id']}", entry.get("segmentation")
        if not segmentation:
            raise AnnotationError(f"{where} has no segmentation, but the task needs masks")
        if isinstance(segmentation, dict):
            size, counts = segmentation.get("size"), segmentation.get("counts")
            if size != [height, width]:
                raise AnnotationError(
                    f"{where}: its run lengths have the size {size}, its image {[height, width]}"
                )
            if isinstance(counts, list) and sum(counts) != width * height:
                raise AnnotationError(
                    f"{where}: its run lengths cover {sum(counts)} pixels instead of {width * height}"
                )
            if not isinstance(counts, list | str):
                raise AnnotationError(f"{where}: its run lengths have no counts")
            return
        if not isinstance(segmentation, list):
            raise AnnotationError(f"{where}: its segmentation is neither polygons nor run lengths")
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise AnnotationError(f"{where}: a polygon needs three or more points, each with x and y")

    def _decode_mask(self, position: int, size: tuple[int, int]) -> Tensor:
        """Decode the mask of one object: (H, W) bool."""
        run_lengths = _run_lengths()
        encoded = self._segmentations[position]
        if isinstance(encoded, list):
            encoded = run_lengths.merge(run_lengths.frPyObjects(encoded, *size))
        elif isinstance(encoded["counts"], list):
            encoded = run_lengths.frPyObjects(encoded, *size)
        try:
            return torch.from_numpy(run_lengths.decode(encoded)).bool()
        except (ValueError, RuntimeError, IndexError) as error:
            number = self._annotation_ids[position]
            raise AnnotationError(
                f"{self.file}: annotation {number} has broken run lengths ({error})"
            ) from error

    def _check_files(self) -> None:
        """Raise if an image file is missing; lists the folder once instead of testing every file."""
        if not self.folder.is_dir():
            raise AnnotationError(f"there is no folder {self.folder} with the images of {self.file}")
        present = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        missing = [n for n, entry in self._images.items() if entry["file_name"] not in present]
        if missing:
            first = ", ".join(f"{n} ({self._images[n]['file_name']})" for n in missing[:3])
            raise AnnotationError(
                f"{self.folder} lacks {len(missing)} of {len(self._images)} images of {self.file}: {first}"
                + (", ..." if len(missing) > 3 else "")
            )


def open_coco(folder: Path, *, masks: bool = False) -> DetectionData:
    """Open a data set in COCO's layout.

    ``annotations/train.json`` beside ``train/``, and ``val`` or ``test``; or with the official names,
    ``annotations/instances_train2017.json`` beside ``train2017/``. Objects are clipped to their image, and
    left out if a side is then below one pixel.

    Args:
        folder: holds ``annotations`` and the folders of images.
        masks: read a mask for each object: polygons or run lengths.

    Raises:
        AnnotationError: a file is not such JSON, or an annotation is broken.
        ValueError: a split is missing, the splits have different categories, or masks are requested and
            faster-coco-eval is not installed.
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
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
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


def as_run_lengths(mask: Tensor) -> dict[str, Any]:
    """Encode (H, W) bool as COCO's compressed run lengths."""
    import numpy as np

    encoded: dict[str, Any] = _run_lengths().encode(np.asfortranarray(mask.byte().numpy()))
    counts = encoded["counts"]
    text: str = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": list(encoded["size"]), "counts": text}


def _run_lengths() -> Any:
    """Import the module that encodes and decodes masks."""
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise ValueError("masks need faster-coco-eval: pip install 'recursivemix[transfer]'") from error
    return mask


COCO = DetectionFormat(
    open=lambda folder, masks: open_coco(folder, masks=masks),
    detect=lambda folder: (folder / "annotations").is_dir(),
    layout="annotations/train.json and val.json beside train/ and val/",
)
