"""Measure a detector or a segmenter by the metrics of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recursivemix.data.annotated_batches import AnnotatedEvaluation
from recursivemix.data.atomic_write import finite
from recursivemix.data.formats.coco import annotation_dict
from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.data.order import evaluation_batches
from recursivemix.models.trained import TrainedModel, unusable
from recursivemix.tasks.detection.metrics import ObjectScores
from recursivemix.tasks.segmentation.metrics import RegionOverlap
from recursivemix.tasks.segmentation.model import predict_map
from recursivemix.tasks.transfer import SCENES
from recursivemix.training.devices import device_type
from recursivemix.training.settings import Device, Precision

from .checkpoint import check_classes
from .subject import autocast

if TYPE_CHECKING:
    from recursivemix.data.annotated import DetectionData, SegmentationData


def evaluate_dense(
    trained: TrainedModel,
    data: Path | None,
    batch_size: int | None,
    device: Device,
    workers: int,
    precision: Precision,
) -> dict[str, Any]:
    """Return the metrics of a detector or segmenter on the evaluation split of a data set.

    Args:
        trained: of detection, instance or semantic segmentation.
        data: folder in a format of its training, with the same classes; None for the synthetic scenes.
        batch_size: images per forward pass; None for that of the training.
        device: cpu, gpu, or auto.
        workers: number of processes that read images; the scenes need none.
        precision: bf16, 16, 32, or auto.

    Raises:
        ValueError: data that cannot be used, or that have other classes.
    """
    origin = trained.settings["data"]
    if data is None and not (isinstance(origin, dict) and origin.get("name") == SCENES):
        raise ValueError(
            f"{trained.path} was not trained on the sample scenes: name its images with --data DIR"
        )
    opened = _open(trained, data)
    size = batch_size or trained.settings.get("batch_size")
    if type(size) is not int or size < 1:
        raise unusable(trained.path, ValueError(f"its batch_size is {size!r}: give --batch-size"))
    place = torch.device(device_type(device))
    batches = AnnotatedEvaluation[Any](
        opened.evaluation,
        evaluation_batches(len(opened.evaluation), size),
        device=place,
        workers=0 if data is None else workers,
    )
    with torch.inference_mode(), autocast(device, precision):
        measure = _segmenter if trained.task == "segmentation" else _detector
        score, metrics, per_class = measure(trained.to(place), opened, batches)
    return {
        "task": trained.task,
        "data": {"name": str(data or SCENES), "split": opened.split, "classes": list(opened.classes)},
        "images": len(opened.evaluation),
        "score": score,
        "metrics": finite(metrics),
        "per_class": finite(per_class),
    }


Measured = tuple[str, dict[str, float], dict[str, float]]
"""Name of the score, value of each metric, and score of each class."""


def _detector(trained: TrainedModel, opened: Any, batches: AnnotatedEvaluation[Any]) -> Measured:
    truth = annotation_dict(opened.evaluation, opened)
    scores = ObjectScores(truth, opened.category_ids, trained.task == "instance")
    for batch in batches:
        scores.update(trained.network, batch)
    return scores.score, scores.compute(), scores.per_class


def _segmenter(trained: TrainedModel, opened: Any, batches: AnnotatedEvaluation[Any]) -> Measured:
    overlap, preprocessing = RegionOverlap(len(opened.classes)).to(trained.device), trained.preprocessing
    mean, std = (
        torch.tensor(values, device=trained.device).view(3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    for batch in batches:
        for image, label_map in zip(batch.images, batch.targets, strict=True):
            overlap.update(predict_map(trained.network, image, preprocessing.size, mean, std), label_map)
    values = overlap.compute()
    per_class = dict(zip(opened.classes, values.pop("iou").tolist(), strict=True))
    return "miou", values, per_class


def _open(trained: TrainedModel, data: Path | None) -> DetectionData | SegmentationData:
    """Open a data set; raise ValueError if its classes are not those of the training."""
    opened: DetectionData | SegmentationData
    if trained.task == "segmentation":
        opened = open_segmentation(data)
    else:
        opened = open_detection(data, masks=trained.task == "instance")
    check_classes(trained, opened.classes)
    return opened
