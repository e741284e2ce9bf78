"""Registry of detectors. Standard library only.

To add a detector, write its module in this folder and add one line here. The value of an entry is
``MODULE:OBJECT``: the object is called with a `LoadedBackbone`, the number of classes and
`DetectorOptions`, and returns a network with the call of torchvision's detectors.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

BOX_DETECTORS = {
    "atss": "atss:ATSS",
    "gfl": "gfl:GFL",
    "fcos": "from_torchvision:fcos",
    "retinanet": "from_torchvision:retinanet",
}
"""Detectors that predict boxes; the choices of ``--detector``."""
MASK_DETECTORS = {"maskrcnn": "from_torchvision:mask_rcnn"}
"""Detectors that predict boxes and masks."""
DETECTORS = BOX_DETECTORS | MASK_DETECTORS

if TYPE_CHECKING:  # a type checker cannot evaluate a Literal that is made from a registry
    BoxDetector = str
    Detector = str
else:
    BoxDetector = Literal[tuple(BOX_DETECTORS)]
    Detector = Literal[tuple(DETECTORS)]


def load_detector(name: str) -> Any:
    """Import what builds a detector.

    Raises:
        ValueError: the registry has no detector of this name.
    """
    if name not in DETECTORS:
        raise ValueError(f"--detector must be one of {', '.join(DETECTORS)}; got {name!r}")
    return resolve_name(f"recursivemix.tasks.detection.{DETECTORS[name]}")
