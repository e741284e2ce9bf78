"""Boxes and label maps in Pascal VOC's layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import torch
from torch import Tensor

from recursivemix.data.annotated import AnnotationError, DetectionData, Objects, SegmentationData

from .ade20k import MapImages
from .folder import as_rgb, opened_file

TRAIN, EVALUATION = ("train", "trainval"), ("val", "test")
"""Names of splits, in the order in which they are looked for."""
BACKGROUND = "background"


@dataclass(frozen=True)
class Annotated:
    """One XML file, read."""

    size: tuple[int, int]
    """(H, W)"""
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


class VocImages:
    """One split; see `DetectionImages`. Images are read on access, annotations once.

    Args:
        folder: holds Annotations and JPEGImages.
        names: of the images, without ending.
        classes: names of the K classes.

    Raises:
        AnnotationError: see `open_voc_detection`.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], found: Sequence[Annotated], classes: Sequence[str]
    ):
        self.folder = folder
        self._names = names
        self._found = found
        place = {name: k for k, name in enumerate(classes)}
        self._objects = []
        for name, one in zip(names, found, strict=True):
            unknown = [kind for kind in one.names if kind not in place]
            if unknown:
                raise AnnotationError(
                    f"{folder / 'Annotations' / name}.xml: object {one.names.index(unknown[0]) + 1} is a "
                    f"{unknown[0]!r}, and no training image has one"
                )
            boxes = torch.tensor(one.boxes, dtype=torch.float32).view(-1, 4)
            self._objects.append(
                Objects(
                    boxes,
                    torch.tensor([place[kind] for kind in one.names], dtype=torch.long),
                    torch.tensor(one.difficult, dtype=torch.bool),
                    (boxes[:, 2:] - boxes[:, :2]).prod(1),
                )
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        path = Path(self.name(index))
        with opened_file(path) as source:
            image = as_rgb(source)
        if tuple(image.shape[-2:]) != self.size(index):
            raise AnnotationError(
                f"{path} is {image.shape[-1]}x{image.shape[-2]}, its annotation says "
                f"{self.size(index)[1]}x{self.size(index)[0]}"
            )
        return image, self._objects[index]

    def objects(self, index: int) -> Objects:
        """The objects of one image; difficult ones count as crowd."""
        return self._objects[index]

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of one image."""
        return self._found[index].size

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.folder / "JPEGImages" / f"{self._names[index]}.jpg")

    def image_id(self, index: int) -> int:
        """Counted from 1, as COCO's."""
        return index + 1


def open_voc_detection(folder: Path) -> DetectionData:
    """Boxes of Annotations, for the splits of ImageSets/Main; the classes are those of the training images.

    VOC counts pixels from 1 and boxes with their last pixel: 1 is taken off the first corner. Difficult
    objects are neither trained on nor counted.

    Raises:
        AnnotationError: an annotation that is missing or can't be used, with its file and object.
        ValueError: no such folder.
    """
    root = voc_root(folder)
    train_names, _ = names_of(root, "Main", TRAIN)
    names, split = names_of(root, "Main", EVALUATION)
    train, evaluation = ([read_annotation(root, name) for name in part] for part in (train_names, names))
    classes = tuple(sorted({kind for one in train for kind in one.names}))
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
    """Label maps of SegmentationClass, for the splits of ImageSets/Segmentation.

    The palette's indices are the classes, 0 the background and 255 ignored. The classes have no names in
    VOC's files: those of ``classes.txt`` are taken if there is one, else their numbers.

    Raises:
        AnnotationError: a map that is missing or can't be used, with its file.
        ValueError: no such folder.
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
                raise AnnotationError(f"there is no {path}, which ImageSets/Segmentation names")
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
    """The folder that holds JPEGImages: this one, or the only VOC* below it."""
    places = [
        p for p in (folder, *folder.glob("VOC*"), *folder.glob("*/VOC*")) if (p / "JPEGImages").is_dir()
    ]
    if len(places) != 1:
        found = ", ".join(str(p) for p in places) or "none"
        raise ValueError(f"{folder} must hold one folder with JPEGImages, found {found}")
    return places[0]


def names_of(root: Path, kind: str, splits: Sequence[str]) -> tuple[list[str], str]:
    """The images of the first split that is there, and its name."""
    for split in splits:
        file = root / "ImageSets" / kind / f"{split}.txt"
        if file.is_file():
            names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
            if not names:
                raise AnnotationError(f"{file} names no image")
            return names, split
    raise ValueError(f"{root / 'ImageSets' / kind} has no {' or '.join(f'{s}.txt' for s in splits)}")


def read_annotation(root: Path, name: str) -> Annotated:
    """One XML file of Annotations."""
    file = root / "Annotations" / f"{name}.xml"
    try:
        tree = ET.parse(file).getroot()
    except (OSError, ET.ParseError) as error:
        raise AnnotationError(f"{file} can't be read as an annotation: {error}") from error
    try:
        size = tuple(int(tree.findtext(f"size/{key}") or "") for key in ("height", "width"))
    except ValueError as error:
        raise AnnotationError(f"{file} has no size with height and width") from error
    names, boxes, difficult = [], [], []
    for number, one in enumerate(tree.iter("object"), start=1):
        kind = one.findtext("name")
        try:
            corners = [
                float(one.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")
            ]
        except ValueError as error:
            raise AnnotationError(f"{file}: object {number} has no bndbox of four numbers") from error
        if not kind:
            raise AnnotationError(f"{file}: object {number} has no name")
        if not all(math.isfinite(v) for v in corners) or corners[2] < corners[0] or corners[3] < corners[1]:
            raise AnnotationError(f"{file}: object {number} has a box turned inside out: {corners}")
        x1, y1 = max(corners[0] - 1, 0), max(corners[1] - 1, 0)
        x2, y2 = min(corners[2], size[1]), min(corners[3], size[0])
        if x2 - x1 < 1 or y2 - y1 < 1:
            continue  # outside of its image
        names.append(kind.strip())
        boxes.append([x1, y1, x2, y2])
        difficult.append((one.findtext("difficult") or "0").strip() == "1")
    return Annotated((size[0], size[1]), names, boxes, difficult)
