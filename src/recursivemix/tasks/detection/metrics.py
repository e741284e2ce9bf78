"""COCO's average precision, computed by faster-coco-eval.

torchmetrics' MeanAveragePrecision uses the same package, but it stops with an error if processes hold
different numbers of images, and takes longer (results/average-precision.json).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from recursivemix.data.annotated import Objects
from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.data.formats.coco_masks import as_run_lengths

NAMES = ("ap", "ap50", "ap75", "aps", "apm", "apl")
"""AP over IoU 0.5 to 0.95, at 0.5, at 0.75, and of small, medium and large objects."""


class ObjectScores:
    """COCO's AP of the detections on the images that were evaluated, by all processes.

    Args:
        truth: objects of the evaluation split in COCO's format.
        category_ids: COCO's id of each class.
        masks: compare masks too; their AP is the score.
    """

    def __init__(self, truth: dict[str, Any], category_ids: Sequence[int], masks: bool) -> None:
        self.truth = truth
        self.category_ids = category_ids
        self.names = (*NAMES, *(f"segm_{name}" for name in NAMES)) if masks else NAMES
        self.score = "segm_ap" if masks else "ap"
        self.per_class: dict[str, float] = {}
        """AP in percent by class, of the last `compute`."""
        self._images: list[int] = []
        self._results: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget all images."""
        self._images, self._results = [], []

    def update(self, network: Any, batch: AnnotatedBatch[Objects]) -> None:
        """Add the detections of a network in a batch, which may be empty."""
        if not batch.images:
            return
        detections = network([image.float() / 255 for image in batch.images])
        for place, one in zip(batch.indices, detections, strict=True):
            self._images.append(self.truth["images"][place]["id"])
            masks = one["masks"].cpu() if self.score == "segm_ap" else None
            boxes, scores = one["boxes"].float().cpu(), one["scores"].float().cpu()
            found = (boxes, scores, one["labels"].cpu(), self.category_ids, masks)
            self._results += detections_as_results(self._images[-1], *found)

    def compute(self) -> dict[str, float]:
        """Return the values of `names` in percent."""
        images, results = self._images, self._results
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (images, results))
            images, results = (list(chain(*lists)) for lists in zip(*parts, strict=True))
        values: dict[str, float] = {}
        kinds: list[tuple[Literal["bbox", "segm"], str]] = [("bbox", ""), ("segm", "segm_")]
        for kind, prefix in kinds[: len(self.names) // len(NAMES)]:
            metrics = coco_metrics(self.truth, results, kind, images)
            self.per_class = metrics["per_class"]
            values |= {f"{prefix}{name}": metrics[name] for name in NAMES}
        return values


def coco_metrics(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
    images: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return COCO's AP of detections.

    Args:
        truth: content of a COCO file: ``images``, ``annotations``, ``categories``.
        results: see `detections_as_results`; at most 100 per image count.
        kind: compare boxes or masks.
        images: ids of the images that were evaluated; None for all.

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

    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    # A mask's area counts, not its box's, which faster-coco-eval takes where there is one.
    skipped = {"bbox"} if kind == "segm" else set()
    detections = [{key: one[key] for key in one.keys() - skipped} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(truth)
        detected = annotated.loadRes(detections)
        evaluation = COCOeval_faster(annotated, detected, kind, print_function=lambda *words: None)
        if images is not None:
            evaluation.params.imgIds = sorted(images)
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU thresholds, recalls, categories, size ranges, detections per image); -1 where there is no object.
    precision = torch.as_tensor(evaluation.eval["precision"])[..., -1]

    def mean(part: Tensor) -> float:
        known = part[part > -1]
        return 100 * float(known.mean()) if len(known) else float("nan")

    everything, *sizes = precision.unbind(-1)  # of any size; small, medium, large
    values = [mean(everything), mean(everything[0]), mean(everything[5]), *(mean(size) for size in sizes)]
    names = {one["id"]: one["name"] for one in truth["categories"]}
    per_class = {names[k]: mean(everything[..., i]) for i, k in enumerate(evaluation.params.catIds)}
    return dict(zip(NAMES, values, strict=True)) | {"per_class": per_class}


def detections_as_results(
    image_id: int,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    category_ids: Sequence[int],
    masks: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Return the detections of one image in COCO's result format.

    Args:
        image_id: id of the image in COCO's file.
        boxes: (D, 4) ``(x1, y1, x2, y2)`` in pixels.
        scores: (D,)
        labels: (D,) class indices in 0..K-1.
        category_ids: COCO's id of each class.
        masks: (D, H, W) bool; written as run lengths.
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
