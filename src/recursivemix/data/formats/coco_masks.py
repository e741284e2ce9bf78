"""Masks in COCO's format: polygons, run lengths as a list, or compressed run lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recursivemix.data.annotated import AnnotationError

LARGEST_OFFSET = 10
"""Largest coordinate of a polygon in sides of its image; drawing one takes memory for its whole outline."""


def check_segmentation(where: str, segmentation: Any, size: tuple[int, int]) -> None:
    """Check everything but the content of compressed run lengths, which `decode_mask` checks.

    Args:
        where: file and annotation, for messages.
        segmentation: ``segmentation`` of the annotation.
        size: (H, W) of its image.
    """
    height, width = size
    if not segmentation:
        raise AnnotationError(f"{where} has no segmentation, but the task needs masks")
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != [height, width]:
            raise AnnotationError(
                f"{where} has run lengths of another size than its image, {[height, width]}"
            )
        if isinstance(counts, list):
            if not all(isinstance(count, int) and count >= 0 for count in counts):
                raise AnnotationError(f"{where} has run lengths that are not whole numbers of at least 0")
            if sum(counts) != width * height:
                raise AnnotationError(
                    f"{where} has run lengths of {sum(counts)} pixels instead of {width * height}"
                )
        elif not isinstance(counts, str):
            raise AnnotationError(f"{where} has run lengths without counts")
        return
    if not isinstance(segmentation, list):
        raise AnnotationError(f"{where} has a segmentation that is neither polygons nor run lengths")
    limit = LARGEST_OFFSET * max(size)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError(
                f"{where} has a polygon that is not a list of three or more points, each x and y"
            )
        # Sums and extremes instead of a test of each coordinate: large data sets have 100 million. A sum
        # finds NaN, which comparisons miss.
        if (
            not set(map(type, polygon)) <= {int, float}
            or not -limit <= min(polygon) <= max(polygon) <= limit
            or sum(polygon) != sum(polygon)
        ):
            raise AnnotationError(
                f"{where} has a polygon with coordinates that are not numbers near its image"
            )


def decode_mask(where: str, segmentation: Any, size: tuple[int, int]) -> Tensor:
    """Decode what `check_segmentation` accepts: (H, W) bool; broken run lengths raise AnnotationError."""
    run_lengths = require_masks()
    try:
        if isinstance(segmentation, list):
            encoded = run_lengths.merge(run_lengths.frPyObjects(segmentation, *size))
        else:
            encoded = {"size": list(size), "counts": segmentation["counts"]}
            if isinstance(encoded["counts"], list):
                encoded = run_lengths.frPyObjects(encoded, *size)
        return torch.from_numpy(run_lengths.decode(encoded)).bool()
    except (ValueError, RuntimeError, IndexError) as error:
        raise AnnotationError(f"{where} has broken run lengths ({error})") from error


def as_run_lengths(mask: Tensor) -> dict[str, Any]:
    """Encode (H, W) bool as COCO's compressed run lengths."""
    import numpy as np

    encoded: dict[str, Any] = require_masks().encode(np.asfortranarray(mask.byte().numpy()))
    counts = encoded["counts"]
    text: str = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": list(encoded["size"]), "counts": text}


def require_masks() -> Any:
    """Import the module that encodes and decodes masks; raise ValueError if it is not installed."""
    try:
        from faster_coco_eval.core import mask
    except ModuleNotFoundError as error:
        raise ValueError("masks need faster-coco-eval: pip install 'recursivemix[transfer]'") from error
    return mask
