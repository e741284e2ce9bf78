"""Open a data set with boxes, masks or label maps, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .annotated import AnnotatedFormat, AnnotationError, DetectionData, SegmentationData, SelectedImages
from .decode import FIX_FILE, UnreadableImageError
from .names import DETECTION_FORMATS, SEGMENTATION_FORMATS, DetectionSource, SegmentationSource, load_format

AnnotatedData = TypeVar("AnnotatedData", DetectionData, SegmentationData)


def open_detection(
    data: Path | None, dataset: DetectionSource = "auto", *, masks: bool = False, skip_bad: bool = False
) -> DetectionData:
    """Open images with boxes.

    Args:
        data: the folder; None for the synthetic scenes.
        dataset: its format; "auto" detects it.
        masks: read a mask for each object.
        skip_bad: leave out images that cannot be read or have a broken annotation; reads them all.

    Raises:
        ValueError: no format recognizes the folder, it has no masks, or an annotation is broken.
    """
    chosen = _choose_format(data, dataset, DETECTION_FORMATS, "boxes")
    opened: DetectionData = chosen.open(data or Path(), masks=masks, skip_bad=skip_bad)
    return _readable(opened) if skip_bad else opened


def open_segmentation(
    data: Path | None, dataset: SegmentationSource = "auto", *, skip_bad: bool = False
) -> SegmentationData:
    """Open images with label maps; arguments and errors as in `open_detection`."""
    chosen = _choose_format(data, dataset, SEGMENTATION_FORMATS, "label maps")
    opened: SegmentationData = chosen.open(data or Path(), skip_bad=skip_bad)
    return _readable(opened) if skip_bad else opened


def _readable(data: AnnotatedData) -> AnnotatedData:
    """Read every image and its annotation, and leave out those that fail."""
    skipped = list(data.skipped)

    def readable(images: Any) -> SelectedImages:
        def reason(index: int) -> str | None:
            try:
                images[index]
            except (AnnotationError, UnreadableImageError) as error:
                return str(error).removesuffix(f"; {FIX_FILE}")
            return None

        with ThreadPoolExecutor() as pool:
            reasons = list(pool.map(reason, range(len(images))))
        skipped.extend(reason for reason in reasons if reason is not None)
        indices = [index for index, reason in enumerate(reasons) if reason is None]
        if not indices:
            raise ValueError(f"--skip-bad leaves no image of a split: {skipped[-1]}")
        return SelectedImages(images, indices)

    train, evaluation = readable(data.train), readable(data.evaluation)
    return replace(data, train=train, evaluation=evaluation, skipped=tuple(skipped))


def _choose_format(
    data: Path | None, dataset: str, registry: Mapping[str, str], what: str
) -> AnnotatedFormat:
    """Return the format of this name, or for "auto" the first one that recognizes the folder."""
    if data is not None and not data.is_dir():
        raise ValueError(f"--data: there is no folder {data}")
    if dataset != "auto":
        chosen: AnnotatedFormat = load_format(registry, dataset)
        if (chosen.detect is None) != (data is None):
            raise ValueError(
                f"--dataset {dataset} needs "
                f"{'no --data: leave it out' if data is not None else '--data DIR'}"
            )
        return chosen
    formats: dict[str, AnnotatedFormat] = {name: load_format(registry, name) for name in registry}
    for candidate in formats.values():
        if data is None and candidate.detect is None:
            return candidate
        if data is not None and candidate.detect is not None and candidate.detect(data):
            return candidate
    layouts = "; ".join(f"{name}: {one.layout}" for name, one in formats.items() if one.layout)
    raise ValueError(f"{data} holds no {what} in a known layout ({layouts})")
