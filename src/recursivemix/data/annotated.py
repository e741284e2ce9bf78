"""What every source of boxes, masks and label maps gives: two splits of one set of classes.

Sources: `recursivemix.data.formats.scenes` (embedded), `coco`, `voc` and `ade20k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

IGNORE = 255
"""The value of a label map's pixels that are of no class; they count neither in losses nor in metrics."""


class AnnotationError(ValueError):
    """An annotation that can't be used; the message names file, id and what is wrong, in one line."""


class Objects(NamedTuple):
    """The annotated objects of one image, N of them; N may be 0."""

    boxes: Tensor
    """(N, 4) float32 ``(x1, y1, x2, y2)`` pixels of the image, inside it, sides above 0."""
    labels: Tensor
    """(N,) int64 class indices in 0..K-1."""
    crowd: Tensor
    """(N,) bool: a region of many objects; never trained on, and no detection in it is wrong (COCO)."""
    area: Tensor
    """(N,) float32 pixels as annotated, by which COCO tells small from large objects."""
    masks: Tensor | None = None
    """(N, H, W) bool, where the source has them."""


class DetectionImages(Protocol):
    """Images with their objects, read one by one: (3, H, W) uint8 RGB of any size, and `Objects`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]: ...

    def objects(self, index: int) -> Objects:
        """An image's objects, without reading the image."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """An image's (H, W), without reading it."""
        ...

    def name(self, index: int) -> str:
        """What to call an image in a message: its file, or its place in its source."""
        ...

    def image_id(self, index: int) -> int:
        """The image's id in COCO's files."""
        ...


class SegmentationImages(Protocol):
    """Images with a class at every pixel: (3, H, W) uint8 RGB, and (H, W) uint8 with `IGNORE`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def name(self, index: int) -> str:
        """What to call an image in a message: its file, or its place in its source."""
        ...


@dataclass(frozen=True)
class DetectionData:
    """A detection data set, ready for loaders."""

    train: DetectionImages
    evaluation: DetectionImages
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """Of each class, its id in COCO's files."""
    split: str
    """Which split ``evaluation`` is: "val", "test", "held out"."""
    flip: bool = True
    """Whether a mirrored object keeps its class."""
    has_masks: bool = False


@dataclass(frozen=True)
class SegmentationData:
    """A data set of label maps, ready for loaders."""

    train: SegmentationImages
    evaluation: SegmentationImages
    classes: tuple[str, ...]
    split: str
    flip: bool = True
