"""Draw what a detector or segmenter predicts beside what is annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from recursivemix.data.annotated import DetectionData, Objects, SegmentationData
from recursivemix.data.order import generator_of
from recursivemix.mixing import DenseTarget
from recursivemix.models.feature_map import evaluating
from recursivemix.tasks.detection.learner import DetectionLearner
from recursivemix.tasks.segmentation.learner import SegmentationLearner

from .cells import Cell, Cells, enlarged, write_cells
from .overlays import class_key, draw_target

SHOWN = 6
MOST_NAMED = 12
"""Images with more objects than this get no names at their boxes; the legend has the classes."""
LEAST_SCORE = 0.25
"""Detections with a lower score are not drawn."""
DPI = 220


def write_predictions(
    module: DetectionLearner | SegmentationLearner, data: DetectionData | SegmentationData, path: Path
) -> None:
    """Draw a fixed random choice of evaluation images: annotations above, predictions below."""
    order = torch.randperm(len(data.evaluation), generator=generator_of("shown"))[:SHOWN].tolist()
    annotated, predicted = [], []
    targets: list[DenseTarget | Tensor] = []
    for index in order:
        truth: Objects | DenseTarget | Tensor
        image, truth = data.evaluation[index]
        if not isinstance(truth, Tensor):
            truth = DenseTarget(truth.boxes, truth.labels, truth.masks)
        target, scores = confident(*predict_one(module, image))
        annotated.append(drawn(image, truth, None, data.classes))
        predicted.append(drawn(image, target, scores, data.classes))
        targets += [truth, target]
    rows = (tuple(Cell(p, ()) for p in annotated), tuple(Cell(p, ()) for p in predicted))
    key = class_key(targets, data.classes)
    cells = Cells("", ("",) * len(order), rows, ("annotated", "predicted"), key)
    write_cells(cells, path, "light", DPI)


def predict_one(
    module: DetectionLearner | SegmentationLearner, image: Tensor
) -> tuple[DenseTarget | Tensor, Tensor | None]:
    """Predict one (3, H, W) uint8 image: an (H, W) label map, or objects and their (N,) scores."""
    with evaluating(module):
        if isinstance(module, SegmentationLearner):
            return module.predict_map(image.to(module.device)).cpu(), None
        (output,) = module.network([image.to(module.device).float() / 255])
    masks = output.get("masks")
    target = DenseTarget(
        output["boxes"].cpu(), output["labels"].cpu(), None if masks is None else masks.cpu()
    )
    return target, output["scores"].cpu()


def confident(
    target: DenseTarget | Tensor, scores: Tensor | None
) -> tuple[DenseTarget | Tensor, Tensor | None]:
    """Drop the objects with a score below `LEAST_SCORE`."""
    if isinstance(target, Tensor) or scores is None:
        return target, scores
    kept = scores >= LEAST_SCORE
    masks = None if target.masks is None else target.masks[kept]
    return DenseTarget(target.boxes[kept], target.labels[kept], masks), scores[kept]


def drawn(
    image: Tensor, target: DenseTarget | Tensor, scores: Tensor | None, classes: Sequence[str]
) -> Tensor:
    """Draw a target over a (3, H, W) uint8 image, small ones enlarged, with names and scores."""
    large, times = enlarged(image)
    if isinstance(target, Tensor) or len(target.labels) > MOST_NAMED:
        return draw_target(large, target, times)
    names = [classes[label] for label in target.labels.tolist()]
    if scores is not None:
        names = [f"{name} {score:.2f}" for name, score in zip(names, scores.tolist(), strict=True)]
    return draw_target(large, target, times, names)
