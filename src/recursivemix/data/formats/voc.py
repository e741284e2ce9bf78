"""Boxes and label maps in the layout of Pascal VOC."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from recursivemix.data.annotated import (
    LARGEST_SIDE,
    AnnotatedFormat,
    AnnotationError,
    DetectionData,
    Objects,
    SegmentationData,
    distinct,
    is_finite,
    lines_of,
    passing,
    shortened,
)
from recursivemix.data.decode import whole_image

from .ade20k import MapImages, check_class_count, largest_number
from .folder import files_below, is_image_file

TRAIN, EVALUATION = ("train", "trainval"), ("val", "test")
"""Names of splits, in order of preference."""
BACKGROUND = "background"
LONGEST_NAME = 200
"""Characters in the name of an image."""


class Annotation(NamedTuple):
    """Content of one XML file."""

    image: Path
    size: tuple[int, int]
    """(H, W)"""
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


class VocImages:
    """One split as `DetectionImages`: file, (H, W) and objects of each image, which is read on access."""

    def __init__(self, images: Sequence[tuple[Path, tuple[int, int], Objects]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        path, (height, width), objects = self.images[index]
        image = whole_image(path)
        if image.shape[-2:] != (height, width):
            raise AnnotationError(
                f"{path} is {image.shape[-1]}x{image.shape[-2]}, its annotation says {width}x{height}"
            )
        return image, objects

    def objects(self, index: int) -> Objects:
        return self.images[index][2]

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index][1]

    def name(self, index: int) -> str:
        return str(self.images[index][0])

    def image_id(self, index: int) -> int:
        """Return the number of an image, counted from 1 as in COCO."""
        return index + 1


def open_voc_detection(folder: Path, *, masks: bool = False, skip_bad: bool = False) -> DetectionData:
    """Open the boxes of Annotations, for the splits of ImageSets/Main, with the training images' classes.

    VOC counts pixels from 1 and its boxes include their last pixel, so 1 is subtracted from the first
    corner. Difficult objects are neither trained on nor evaluated. ``skip_bad`` leaves out images that are
    missing or have a broken annotation.

    Raises:
        AnnotationError: an image is missing, or an annotation is missing or broken.
        ValueError: the folder is missing, or masks are requested.
    """
    if masks:
        raise ValueError(f"{folder} is in the layout of Pascal VOC, which has no masks: use COCO's")
    root = voc_root(folder)
    skipped: list[str] | None = [] if skip_bad else None
    images = images_by_name(root)
    splits = [names_of(root, "Main", names, images) for names in (TRAIN, EVALUATION)]
    train, evaluation = (
        passing(lambda name: read_annotation(root, name, images), names, skipped) for names, _ in splits
    )
    classes = tuple(sorted({kind for annotation in train for kind in annotation.names}))
    if not classes:
        raise AnnotationError(f"{root}: no training image has an object")

    def with_objects(annotation: Annotation) -> tuple[Path, tuple[int, int], Objects]:
        return annotation.image, annotation.size, objects_of(annotation, classes)

    return DetectionData(
        train=VocImages(passing(with_objects, train, skipped)),
        evaluation=VocImages(passing(with_objects, evaluation, skipped)),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        split=splits[1][1],
        skipped=tuple(skipped or ()),
    )


def open_voc_segmentation(folder: Path, skip_bad: bool = False) -> SegmentationData:
    """Open the label maps of SegmentationClass, for the splits of ImageSets/Segmentation.

    The palette's indices are the classes: 0 is the background and 255 is ignored. VOC's files do not name
    the classes; ``classes.txt`` does if it exists, otherwise their names are numbers. ``skip_bad`` leaves
    out images that are missing or have no label map.

    Raises:
        AnnotationError: an image or a label map is missing, or a label map is broken.
        ValueError: the folder is missing.
    """
    root = voc_root(folder)
    skipped: list[str] | None = [] if skip_bad else None
    images = images_by_name(root)
    splits = [names_of(root, "Segmentation", names, images) for names in (TRAIN, EVALUATION)]

    def pair(name: str) -> tuple[Path, Path]:
        image, label_map = image_of(root, name, images), root / "SegmentationClass" / f"{name}.png"
        if not label_map.is_file():
            raise AnnotationError(f"{label_map} is listed in ImageSets/Segmentation, but does not exist")
        return image, label_map

    files = [passing(pair, names, skipped) for names, _ in splits]
    listed = root / "classes.txt"
    if listed.is_file():
        classes = distinct(lines_of(listed))
    else:
        largest = largest_number(files[0], skip_bad)
        classes = (BACKGROUND, *(str(k) for k in range(1, largest + 1)))
    check_class_count(root, classes)
    return SegmentationData(
        train=MapImages(files[0], len(classes), 0),
        evaluation=MapImages(files[1], len(classes), 0),
        classes=classes,
        split=splits[1][1],
        skipped=tuple(skipped or ()),
    )


def voc_root(folder: Path) -> Path:
    """Return the folder that holds JPEGImages: this one, or the only VOC* below it."""
    roots = _voc_roots(folder)
    if len(roots) != 1:
        listed = ", ".join(str(root) for root in roots) or "none"
        raise ValueError(f"{folder} must hold one folder with JPEGImages, got {listed}")
    return roots[0]


def _voc_roots(folder: Path) -> list[Path]:
    candidates = (folder, *folder.glob("VOC*"), *folder.glob("*/VOC*"))
    return [candidate for candidate in candidates if (candidate / "JPEGImages").is_dir()]


def images_by_name(root: Path) -> dict[str, list[Path]]:
    """Return the image files in JPEGImages by their name, the path there without the suffix."""
    folder = root / "JPEGImages"
    images = defaultdict(list)
    for path in filter(is_image_file, files_below(folder)):
        images[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return images


def image_of(root: Path, name: str, images: Mapping[str, Sequence[Path]]) -> Path:
    """Return the image file of a name; raise AnnotationError if there is none, or several."""
    files = [path for path in images.get(name, ()) if path.is_file()]  # a link can lead nowhere
    if len(files) > 1:
        raise AnnotationError(
            f"{files[0]} and {files[1].name} have the same name, so an annotation fits both: remove one"
        )
    if not files:
        raise AnnotationError(
            f"{root / 'JPEGImages' / name} is listed in ImageSets, but no image has this name"
        )
    return files[0]


def names_of(
    root: Path, kind: str, splits: Sequence[str], images: Mapping[str, Sequence[Path]]
) -> tuple[list[str], str]:
    """Return the image names of the first split that exists, and the name of the split."""
    for split in splits:
        file = root / "ImageSets" / kind / f"{split}.txt"
        if file.is_file():
            # A mark of a class can follow the name, and a name can contain spaces.
            names = [line if line in images else line.split()[0] for line in lines_of(file)]
            if not names:
                raise AnnotationError(f"{file} lists no image")
            for name in names:
                if not name.isprintable() or len(name) > LONGEST_NAME:
                    raise AnnotationError(f"{file}: {shortened(name)} is not the name of an image")
            return names, split
    raise ValueError(f"{root / 'ImageSets' / kind} has no {' or '.join(f'{s}.txt' for s in splits)}")


def objects_of(annotation: Annotation, classes: Sequence[str]) -> Objects:
    """Return the objects of an image, which must be of these classes; difficult ones count as crowd."""
    for number, name in enumerate(annotation.names, start=1):
        if name not in classes:
            raise AnnotationError(
                f"{annotation.image}: object {number} of its annotation is of the class {shortened(name)}, "
                f"which no training image has"
            )
    boxes = torch.tensor(annotation.boxes, dtype=torch.float32).view(-1, 4)
    return Objects(
        boxes,
        torch.tensor([classes.index(name) for name in annotation.names], dtype=torch.long),
        torch.tensor(annotation.difficult, dtype=torch.bool),
        (boxes[:, 2:] - boxes[:, :2]).prod(1),
    )


class _NoDoctype(ET.TreeBuilder):
    """Refuse XML that declares a document type: entities could expand to any size."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise ET.ParseError("a document type is declared")


def read_annotation(root: Path, name: str, images: Mapping[str, Sequence[Path]]) -> Annotation:
    """Read the XML file of an image; raise AnnotationError if it is broken or its image missing."""
    file = root / "Annotations" / f"{name}.xml"
    try:
        tree = ET.parse(file, ET.XMLParser(target=_NoDoctype())).getroot()
    except (OSError, ValueError, LookupError, ET.ParseError) as error:
        raise AnnotationError(f"{file} is not an annotation: {error}") from error
    try:
        height, width = (int(tree.findtext(f"size/{key}") or "") for key in ("height", "width"))
        if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
            raise ValueError
    except ValueError as error:
        raise AnnotationError(
            f"{file} has no size with height and width of 1 to {LARGEST_SIDE} pixels"
        ) from error
    annotation = Annotation(image_of(root, name, images), (height, width), [], [], [])
    for number, entry in enumerate(tree.iter("object"), start=1):
        kind = (entry.findtext("name") or "").strip()
        try:
            corners = [
                float(entry.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")
            ]
        except ValueError as error:
            raise AnnotationError(f"{file}: object {number} has no bndbox of four numbers") from error
        if not kind:
            raise AnnotationError(f"{file}: object {number} has no name")
        if not all(map(is_finite, corners)) or corners[2] < corners[0] or corners[3] < corners[1]:
            raise AnnotationError(
                f"{file}: object {number} has a box with xmax < xmin or ymax < ymin: {corners}"
            )
        x1, y1 = max(corners[0] - 1, 0), max(corners[1] - 1, 0)
        x2, y2 = min(corners[2], width), min(corners[3], height)
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue  # outside the image
        annotation.names.append(kind)
        annotation.boxes.append([x1, y1, x2, y2])
        annotation.difficult.append((entry.findtext("difficult") or "0").strip() == "1")
    return annotation


def _is_voc(folder: Path) -> bool:
    return bool(_voc_roots(folder))


VOC_OBJECTS = AnnotatedFormat(
    open=open_voc_detection, detect=_is_voc, layout="Annotations, ImageSets/Main and JPEGImages"
)
VOC_MAPS = AnnotatedFormat(
    open=open_voc_segmentation,
    detect=_is_voc,
    layout="SegmentationClass, ImageSets/Segmentation and JPEGImages",
)
