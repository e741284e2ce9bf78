"""Registry of data formats, and the values of the data options. Standard library only.

To add a format, write a module in `recursivemix.data.formats` and add one line here. The value of an entry
is ``MODULE:OBJECT``: the object describes the format (`ImageFormat` or `AnnotatedFormat`).

``--dataset auto`` asks the formats in the order of their registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

IMAGE_FORMATS = {
    "digits": "digits:DIGITS",
    "pack": "pack:PACK",
    "table": "table:TABLE",
    "hf": "hub:HUB",
    "hf-stream": "hub_stream:HUB_STREAM",
    "shards": "webdataset:WEBDATASET",
    "cifar10": "cifar:CIFAR10",
    "cifar100": "cifar:CIFAR100",
    "folder": "folder:FOLDER",
}
"""Formats of labelled images."""
DETECTION_FORMATS = {"scenes": "scenes:SCENES_WITH_OBJECTS", "coco": "coco:COCO", "voc": "voc:VOC_OBJECTS"}
"""Formats of images with boxes, and perhaps masks."""
SEGMENTATION_FORMATS = {
    "scenes": "scenes:SCENES_WITH_MAPS",
    "ade20k": "ade20k:ADE20K",
    "voc": "voc:VOC_MAPS",
}
"""Formats of images with label maps."""

if TYPE_CHECKING:  # a type checker cannot evaluate a Literal that is made from a registry
    Source = str
    DetectionSource = str
    SegmentationSource = str
else:
    Source = Literal[("auto", *IMAGE_FORMATS)]
    DetectionSource = Literal[("auto", *DETECTION_FORMATS)]
    SegmentationSource = Literal[("auto", *SEGMENTATION_FORMATS)]

Crop = Literal["pad", "resized", "none"]
AutoAugment = Literal["none", "autoaugment", "randaugment", "trivialaugment", "augmix", "3-augment"]
Cache = Literal["auto", "yes", "no"]


def load_format(registry: Mapping[str, str], name: str) -> Any:
    """Import the description of a format; raise ValueError if the registry has none of this name."""
    if name not in registry:
        raise ValueError(f"--dataset must be auto, {', '.join(registry)}; got {name!r}")
    return resolve_name(f"recursivemix.data.formats.{registry[name]}")
