"""COCO's average precision, counted by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from recursivemix.data.formats.coco import as_run_lengths

NAMES = ("ap", "ap50", "ap75", "aps", "apm", "apl")
"""AP over IoU 0.5 to 0.95, at 0.5, at 0.75, and of small, medium and large objects."""


def coco_metrics(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
) -> dict[str, Any]:
    """COCO's AP of a list of detections.

    Args:
        truth: as in COCO's files: ``images``, ``annotations``, ``categories``.
        results: as `detections_as_results` gives them.
        kind: overlap of boxes, or of masks.
        max_detections: of an image that count, the best first.

    Returns:
        The `NAMES` in percent, NaN where there are no such objects, and ``per_class``: AP by category name.

    Raises:
        ValueError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise ValueError(
            "COCO's metrics need faster-coco-eval: pip install 'recursivemix[transfer]'"
        ) from error

    categories = {one["id"]: one["name"] for one in truth["categories"]}
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(truth)
        # Where nothing is found, one detection of no score stands for it: an empty list has no fields.
        nothing = {"image_id": -1, "category_id": -1, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}
        if results:
            detected = annotated.loadRes([dict(one) for one in results])
        else:
            detected = COCO({**truth, "annotations": [nothing | {"id": 1, "area": 0.0, "iscrowd": 0}]})
        counted = COCOeval_faster(annotated, detected, kind, print_function=lambda *words: None)
        counted.params.maxDets = [1, 10, max_detections]
        counted.evaluate()
        counted.accumulate()
    # (IoU thresholds, recalls, categories, areas, max detections); -1 where there is no object.
    precision = torch.as_tensor(counted.eval["precision"])[..., -1]
    thresholds = [round(float(t), 2) for t in counted.params.iouThrs]
    areas = list(counted.params.areaRngLbl)

    def mean(part: Tensor) -> float:
        known = part[part > -1]
        return 100 * float(known.mean()) if len(known) else float("nan")

    everything = precision[..., areas.index("all")]
    values = [
        mean(everything),
        mean(everything[thresholds.index(0.5)]),
        mean(everything[thresholds.index(0.75)]),
        *(mean(precision[..., areas.index(size)]) for size in ("small", "medium", "large")),
    ]
    per_class = {
        categories[one]: mean(everything[:, :, place]) for place, one in enumerate(counted.params.catIds)
    }
    return dict(zip(NAMES, values, strict=True)) | {"per_class": per_class}


def detections_as_results(
    image_id: int,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    category_ids: Sequence[int],
    masks: Tensor | None = None,
) -> list[dict[str, Any]]:
    """One image's detections as COCO has results.

    Args:
        image_id: of the image.
        boxes: (D, 4) ``(x1, y1, x2, y2)`` pixels.
        scores: (D,)
        labels: (D,) class indices in 0..K-1.
        category_ids: of each class, COCO's id.
        masks: (D, H, W) bool, written as run lengths.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    corners = torch.cat([boxes[:, :2], sides], 1).tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(corners, scores.tolist(), labels.tolist(), strict=True)
    ]
    if masks is not None:
        for one, mask in zip(results, masks, strict=True):
            one["segmentation"] = as_run_lengths(mask)
    return results
