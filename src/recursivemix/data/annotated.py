"""Images with boxes, masks or label maps, and data sets of them: two splits of one set of classes."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Subset

Item = TypeVar("Item")
Result = TypeVar("Result")
IGNORE = 255
"""Value of unlabelled pixels in a label map; losses and metrics leave them out."""
LARGEST_SIDE = 10**6
"""Pixels; no image that is annotated as larger can be read."""


class AnnotationError(ValueError):
    """An unusable annotation; the message is one line with file, id and reason."""


def is_finite(value: Any) -> bool:
    """Tell whether a value read from a file is a number that float32 can hold."""
    return isinstance(value, int | float) and abs(value) <= torch.finfo(torch.float32).max


def shortened(value: Any) -> str:
    """Return a value read from a file for a message: in one line, whatever its length, depth and type."""
    brief = reprlib.Repr()
    brief.maxstring = 100
    return brief.repr(value)


def lines_of(file: Path) -> list[str]:
    """Read the lines of a text file that are not blank, without surrounding space."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{file} is not a text file in UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of classes; the second class of a name gets " (2)", and so on."""
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(result)


def passing(
    check: Callable[[Item], Result], items: Iterable[Item], skipped: list[str] | None
) -> list[Result]:
    """Return the results of a check that raises `AnnotationError`, without the items that fail it.

    The reasons of failures are appended to ``skipped``; None raises the first one.
    """
    results = []
    for item in items:
        try:
            results.append(check(item))
        except AnnotationError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return results


class Objects(NamedTuple):
    """The N annotated objects of one image; N may be 0."""

    boxes: Tensor
    """(N, 4) float32 ``(x1, y1, x2, y2)`` in pixels, inside the image, with sides above 0."""
    labels: Tensor
    """(N,) int64 class indices in 0..K-1."""
    crowd: Tensor
    """(N,) bool: a region of many objects; not trained on, and detections in it are not counted (COCO)."""
    area: Tensor
    """(N,) float32 annotated area in pixels; COCO's metrics for small and large objects use it."""
    masks: Tensor | None = None
    """(N, H, W) bool, if the data set has masks."""


class DetectionImages(Protocol):
    """Images of any size with their objects, read one by one: (3, H, W) uint8 RGB and `Objects`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]: ...

    def objects(self, index: int) -> Objects:
        """Return the objects of an image without reading the image."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Return the (H, W) of an image without reading it."""
        ...

    def name(self, index: int) -> str:
        """Return the file of an image, or its position in the data set; for messages."""
        ...

    def image_id(self, index: int) -> int:
        """Return the id of an image in COCO's files."""
        ...


class SegmentationImages(Protocol):
    """Images with a class for every pixel: (3, H, W) uint8 RGB, and (H, W) uint8 classes or `IGNORE`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def name(self, index: int) -> str:
        """Return the file of an image, or its position in the data set; for messages."""
        ...


class SelectedImages(Subset[Any]):
    """Some `DetectionImages` or `SegmentationImages` of a data set, as a data set of the same kind."""

    dataset: Any

    def objects(self, index: int) -> Objects:
        objects: Objects = self.dataset.objects(self.indices[index])
        return objects

    def size(self, index: int) -> tuple[int, int]:
        size: tuple[int, int] = self.dataset.size(self.indices[index])
        return size

    def name(self, index: int) -> str:
        return str(self.dataset.name(self.indices[index]))

    def image_id(self, index: int) -> int:
        return int(self.dataset.image_id(self.indices[index]))


@dataclass(frozen=True)
class DetectionData:
    """A detection data set, ready for loaders."""

    train: DetectionImages
    evaluation: DetectionImages
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """Id of each class in COCO's files."""
    split: str
    """Name of the evaluation split: "val", "test" or "held out"."""
    flip: bool = True
    """Whether a mirrored object keeps its class."""
    has_masks: bool = False
    skipped: tuple[str, ...] = ()
    """Images left out with ``--skip-bad``, with the reason."""


@dataclass(frozen=True)
class SegmentationData:
    """A data set of label maps, ready for loaders."""

    train: SegmentationImages
    evaluation: SegmentationImages
    classes: tuple[str, ...]
    split: str
    flip: bool = True
    skipped: tuple[str, ...] = ()
    """Images left out with ``--skip-bad``, with the reason."""


@dataclass(frozen=True)
class AnnotatedFormat:
    """A format of images with objects or label maps; `recursivemix.data.names` lists them."""

    open: Callable[..., Any]
    """Open a folder as `DetectionData` or `SegmentationData`. The keyword ``skip_bad`` asks to leave out
    images with broken annotations, and ``masks``, of detection alone, for masks."""
    detect: Callable[[Path], bool] | None = None
    """Tell whether a folder is in this format; None if the format needs no folder."""
    layout: str = ""
    """Files that a folder must have, for messages."""
