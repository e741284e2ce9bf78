"""Boxes and label maps in the layout of Pascal VOC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from recursivemix.data.annotated import (
    AnnotationError,
    DetectionData,
    DetectionFormat,
    Objects,
    SegmentationData,
    SegmentationFormat,
)
from recursivemix.data.decode import as_rgb, open_image_file

from .ade20k import MapImages

TRAIN, EVALUATION = ("train", "trainval"), ("val", "test")
"""Names of splits, in order of preference."""
BACKGROUND = "background"


@dataclass(frozen=True)
class Annotation:
    """Content of one XML file."""

    size: tuple[int, int]
    """(H, W)"""
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


class VocImages:
    """One split as `DetectionImages`; annotations are read once, images on access.

    Args:
        folder: holds Annotations and JPEGImages.
        names: file names of the images, without suffix.
        annotations: of each image.
        classes: names of the K classes.

    Raises:
        AnnotationError: see `open_voc_detection`.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], annotations: Sequence[Annotation], classes: Sequence[str]
    ):
        self.folder = folder
        self._names = names
        self._annotations = annotations
        label_of = {name: k for k, name in enumerate(classes)}
        self._objects = []
        for name, annotation in zip(names, annotations, strict=True):
            unknown = [kind for kind in annotation.names if kind not in label_of]
            if unknown:
                number = annotation.names.index(unknown[0]) + 1
                raise AnnotationError(
                    f"{folder / 'Annotations' / name}.xml: object {number} is of the class {unknown[0]!r}, "
                    f"which no training image has"
                )
            boxes = torch.tensor(annotation.boxes, dtype=torch.float32).view(-1, 4)
            self._objects.append(
                Objects(
                    boxes,
                    torch.tensor([label_of[kind] for kind in annotation.names], dtype=torch.long),
                    torch.tensor(annotation.difficult, dtype=torch.bool),
                    (boxes[:, 2:] - boxes[:, :2]).prod(1),
                )
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        path = Path(self.name(index))
        with open_image_file(path) as source:
            image = as_rgb(source)
        if tuple(image.shape[-2:]) != self.size(index):
            raise AnnotationError(
                f"{path} is {image.shape[-1]}x{image.shape[-2]}, its annotation says "
                f"{self.size(index)[1]}x{self.size(index)[0]}"
            )
        return image, self._objects[index]

    def objects(self, index: int) -> Objects:
        """Return the objects of an image; difficult ones count as crowd."""
        return self._objects[index]

    def size(self, index: int) -> tuple[int, int]:
        """Return the annotated (H, W) of an image."""
        return self._annotations[index].size

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.folder / "JPEGImages" / f"{self._names[index]}.jpg")

    def image_id(self, index: int) -> int:
        """Return the number of an image, counted from 1 as in COCO."""
        return index + 1


def open_voc_detection(folder: Path) -> DetectionData:
    """Open the boxes of Annotations, for the splits of ImageSets/Main, with the training images' classes.

    VOC counts pixels from 1 and its boxes include their last pixel, so 1 is subtracted from the first
    corner. Difficult objects are neither trained on nor evaluated.

    Raises:
        AnnotationError: an annotation is missing or broken.
        ValueError: the folder is missing.
    """
    root = voc_root(folder)
    train_names, _ = names_of(root, "Main", TRAIN)
    names, split = names_of(root, "Main", EVALUATION)
    train, evaluation = ([read_annotation(root, name) for name in part] for part in (train_names, names))
    classes = tuple(sorted({kind for annotation in train for kind in annotation.names}))
    if not classes:
        raise AnnotationError(f"{root}: no training image has an object")
    return DetectionData(
        train=VocImages(root, train_names, train, classes),
        evaluation=VocImages(root, names, evaluation, classes),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        split=split,
    )


def open_voc_segmentation(folder: Path) -> SegmentationData:
    """Open the label maps of SegmentationClass, for the splits of ImageSets/Segmentation.

    The palette's indices are the classes: 0 is the background and 255 is ignored. VOC's files do not name
    the classes; ``classes.txt`` does if it exists, otherwise their names are numbers.

    Raises:
        AnnotationError: a label map is missing or broken.
        ValueError: the folder is missing.
    """
    root = voc_root(folder)
    splits = [names_of(root, "Segmentation", names) for names in (TRAIN, EVALUATION)]
    files = [
        [(root / "JPEGImages" / f"{n}.jpg", root / "SegmentationClass" / f"{n}.png") for n in names]
        for names, _ in splits
    ]
    for pairs in files:
        for path in (path for pair in pairs for path in pair):
            if not path.is_file():
                raise AnnotationError(f"{path} is listed in ImageSets/Segmentation, but does not exist")
    listed = root / "classes.txt"
    train = MapImages(files[0], None, 0)
    if listed.is_file():
        classes = tuple(line.strip() for line in listed.read_text().splitlines() if line.strip())
    else:
        classes = (BACKGROUND, *(str(k) for k in range(1, train.largest() + 1)))
    return SegmentationData(
        train=MapImages(files[0], len(classes), 0),
        evaluation=MapImages(files[1], len(classes), 0),
        classes=classes,
        split=splits[1][1],
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


def names_of(root: Path, kind: str, splits: Sequence[str]) -> tuple[list[str], str]:
    """Return the image names of the first split that exists, and the name of the split."""
    for split in splits:
        file = root / "ImageSets" / kind / f"{split}.txt"
        if file.is_file():
            names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
            if not names:
                raise AnnotationError(f"{file} lists no image")
            return names, split
    raise ValueError(f"{root / 'ImageSets' / kind} has no {' or '.join(f'{s}.txt' for s in splits)}")


def read_annotation(root: Path, name: str) -> Annotation:
    """Read an XML file of Annotations."""
    file = root / "Annotations" / f"{name}.xml"
    try:
        tree = ET.parse(file).getroot()
    except (OSError, ET.ParseError) as error:
        raise AnnotationError(f"{file} is not an annotation: {error}") from error
    try:
        size = tuple(int(tree.findtext(f"size/{key}") or "") for key in ("height", "width"))
    except ValueError as error:
        raise AnnotationError(f"{file} has no size with height and width") from error
    names, boxes, difficult = [], [], []
    for number, entry in enumerate(tree.iter("object"), start=1):
        kind = entry.findtext("name")
        try:
            corners = [
                float(entry.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")
            ]
        except ValueError as error:
            raise AnnotationError(f"{file}: object {number} has no bndbox of four numbers") from error
        if not kind:
            raise AnnotationError(f"{file}: object {number} has no name")
        if not all(math.isfinite(v) for v in corners) or corners[2] < corners[0] or corners[3] < corners[1]:
            raise AnnotationError(
                f"{file}: object {number} has a box with xmax < xmin or ymax < ymin: {corners}"
            )
        x1, y1 = max(corners[0] - 1, 0), max(corners[1] - 1, 0)
        x2, y2 = min(corners[2], size[1]), min(corners[3], size[0])
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue  # outside the image
        names.append(kind.strip())
        boxes.append([x1, y1, x2, y2])
        difficult.append((entry.findtext("difficult") or "0").strip() == "1")
    return Annotation((size[0], size[1]), names, boxes, difficult)


def _open_objects(folder: Path, masks: bool) -> DetectionData:
    if masks:
        raise ValueError(f"{folder} is in the layout of Pascal VOC, which has no masks: use COCO's")
    return open_voc_detection(folder)


def _is_voc(folder: Path) -> bool:
    return bool(_voc_roots(folder))


VOC_OBJECTS = DetectionFormat(
    open=_open_objects, detect=_is_voc, layout="Annotations, ImageSets/Main and JPEGImages"
)
VOC_MAPS = SegmentationFormat(
    open=open_voc_segmentation,
    detect=_is_voc,
    layout="SegmentationClass, ImageSets/Segmentation and JPEGImages",
)
