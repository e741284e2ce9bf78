"""Open a data set with boxes, masks or label maps, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .annotated import DetectionData, DetectionFormat, SegmentationData, SegmentationFormat
from .names import DETECTION_FORMATS, SEGMENTATION_FORMATS, DetectionSource, SegmentationSource, load_format


def open_detection(
    data: Path | None, dataset: DetectionSource = "auto", *, masks: bool = False
) -> DetectionData:
    """Open images with boxes.

    Args:
        data: the folder; None for the synthetic scenes.
        dataset: its format; "auto" detects it.
        masks: read a mask for each object.

    Raises:
        ValueError: no format recognizes the folder, it has no masks, or an annotation is broken.
    """
    detection_format: DetectionFormat = _choose_format(data, dataset, DETECTION_FORMATS, "boxes")
    return detection_format.open(data or Path(), masks)


def open_segmentation(data: Path | None, dataset: SegmentationSource = "auto") -> SegmentationData:
    """Open images with label maps.

    Args:
        data: the folder; None for the synthetic scenes.
        dataset: its format; "auto" detects it.

    Raises:
        ValueError: no format recognizes the folder, or an annotation is broken.
    """
    segmentation_format: SegmentationFormat = _choose_format(
        data, dataset, SEGMENTATION_FORMATS, "label maps"
    )
    return segmentation_format.open(data or Path())


def _choose_format(data: Path | None, dataset: str, registry: Mapping[str, str], what: str) -> Any:
    """Return the format of this name, or for "auto" the first one that recognizes the folder."""
    if data is not None and not data.is_dir():
        raise ValueError(f"--data: there is no folder {data}")
    if dataset != "auto":
        chosen = load_format(registry, dataset)
        if (chosen.detect is None) != (data is None):
            raise ValueError(
                f"--dataset {dataset} needs "
                f"{'no --data: leave it out' if data is not None else '--data DIR'}"
            )
        return chosen
    formats = {name: load_format(registry, name) for name in registry}
    for candidate in formats.values():
        if data is None and candidate.detect is None:
            return candidate
        if data is not None and candidate.detect is not None and candidate.detect(data):
            return candidate
    layouts = "; ".join(f"{name}: {one.layout}" for name, one in formats.items() if one.layout)
    raise ValueError(f"{data} holds no {what} in a known layout ({layouts})")
