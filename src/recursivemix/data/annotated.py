"""Images with boxes, masks or label maps, and data sets of them: two splits of one set of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

IGNORE = 255
"""Value of unlabelled pixels in a label map; losses and metrics leave them out."""


class AnnotationError(ValueError):
    """An unusable annotation; the message is one line with file, id and reason."""


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


@dataclass(frozen=True)
class SegmentationData:
    """A data set of label maps, ready for loaders."""

    train: SegmentationImages
    evaluation: SegmentationImages
    classes: tuple[str, ...]
    split: str
    flip: bool = True


@dataclass(frozen=True)
class DetectionFormat:
    """A format of images with objects; `recursivemix.data.names.DETECTION_FORMATS` lists them."""

    open: Callable[[Path, bool], DetectionData]
    """Open a folder; the second argument asks for masks."""
    detect: Callable[[Path], bool] | None = None
    """Tell whether a folder is in this format; None if the format needs no folder."""
    layout: str = ""
    """Files that a folder must have, for messages."""


@dataclass(frozen=True)
class SegmentationFormat:
    """A format of images with label maps; `recursivemix.data.names.SEGMENTATION_FORMATS` lists them."""

    open: Callable[[Path], SegmentationData]
    """Open a folder."""
    detect: Callable[[Path], bool] | None = None
    """Tell whether a folder is in this format; None if the format needs no folder."""
    layout: str = ""
    """Files that a folder must have, for messages."""
