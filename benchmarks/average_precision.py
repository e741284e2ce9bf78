"""Seconds of COCO's AP: ours, on faster-coco-eval, beside torchmetrics' on the same package.

    python benchmarks/average_precision.py --out results/average-precision.json [--data COCO_FOLDER]

Both get the same detections, image by image, as an evaluation does, and compute the AP of each class too. A
round times each in turn, and the ratio is of medians. The images are made up, or the evaluation split of a
folder.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from recursivemix.data.annotated import DetectionData, Objects
from recursivemix.data.atomic_write import write_json
from recursivemix.data.formats.coco import annotation_dict, open_coco
from recursivemix.tasks.detection.metrics import coco_metrics, detections_as_results
from recursivemix.training.environment import environment

SIZE = (480, 640)


class MadeUp:
    """Images without pixels; see `DetectionImages`."""

    def __init__(self, count: int, classes: int, objects: int, generator: torch.Generator) -> None:
        self._objects = []
        for number in torch.randint(2 * objects + 1, (count,), generator=generator).tolist():
            boxes = random_boxes(number, SIZE, generator)
            labels = torch.randint(classes, (number,), generator=generator)
            crowd = torch.rand(number, generator=generator) < 0.02
            area = 0.7 * (boxes[:, 2:] - boxes[:, :2]).prod(1)
            self._objects.append(Objects(boxes, labels, crowd, area))

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        raise NotImplementedError

    def objects(self, index: int) -> Objects:
        """Return the objects of an image."""
        return self._objects[index]

    def size(self, index: int) -> tuple[int, int]:
        """Return the size that all images have."""
        return SIZE

    def name(self, index: int) -> str:
        """Return the number of an image."""
        return str(index)

    def image_id(self, index: int) -> int:
        """Return the number of an image, counted from 1."""
        return index + 1


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return (count, 4) boxes of many sizes inside an image of (H, W)."""
    limit = torch.tensor([size[1], size[0]])
    sides = limit * (0.03 + 0.5 * torch.rand(count, 2, generator=generator) ** 2)
    corners = torch.rand(count, 2, generator=generator) * (limit - sides)
    return torch.cat([corners, corners + sides], 1)


def detections_near(data: DetectionData, count: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
    """Return ``count`` detections per image: each object three times with errors, the others random."""
    detections = []
    for index in range(len(data.evaluation)):
        objects = data.evaluation.objects(index)
        near = objects.boxes.repeat(3, 1)[:count]
        near = near + 3 * torch.randn(near.shape, generator=generator)
        others = random_boxes(count - len(near), data.evaluation.size(index), generator)
        boxes = torch.cat([near, others])
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = torch.randint(len(data.classes), (count,), generator=generator)
        labels[: len(near)] = objects.labels.repeat(3)[:count]
        scores = torch.rand(count, generator=generator)
        detections.append({"boxes": boxes, "scores": scores, "labels": labels})
    return detections


def ours(data: DetectionData, truth: dict[str, Any], detections: list[dict[str, Tensor]]) -> list[float]:
    """Return AP, AP50, AP75, and AP of small, medium and large objects; the ground truth is given."""
    results = []
    for index, one in enumerate(detections):
        results += detections_as_results(
            data.evaluation.image_id(index), one["boxes"], one["scores"], one["labels"], data.category_ids
        )
    metrics = coco_metrics(truth, results)
    return [metrics[name] for name in ("ap", "ap50", "ap75", "aps", "apm", "apl")]


def theirs(data: DetectionData, truth: dict[str, Any], detections: list[dict[str, Tensor]]) -> list[float]:
    """Return the same of torchmetrics, whose extended summary holds the AP of each class."""
    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        extended_summary=True,
        # The default thresholds are float32: results differ from pycocotools' if a recall equals one.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
    )
    for index, one in enumerate(detections):
        objects = data.evaluation.objects(index)
        target = {"boxes": objects.boxes, "labels": objects.labels, "area": objects.area}
        metric.update([one], [target | {"iscrowd": objects.crowd.long()}])
    metrics = metric.compute()
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    return [100 * float(metrics[name]) for name in names]


def main() -> None:
    """Time both in turn and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder in COCO's layout")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--objects", type=int, default=7, help="objects per image, on average")
    parser.add_argument("--detections", type=int, default=100, help="detections per image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which measure nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.classes, arguments.detections, arguments.rounds = 10, 3, 20, 2
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    if arguments.data is None:
        images = MadeUp(arguments.images, arguments.classes, arguments.objects, generator)
        names = tuple(str(k) for k in range(1, arguments.classes + 1))
        data = DetectionData(images, images, names, tuple(range(1, len(names) + 1)), "made up")
    else:
        data = open_coco(arguments.data)
    truth = annotation_dict(data.evaluation, data)  # once in a run, so it is not timed
    detections = detections_near(data, arguments.detections, generator)
    seconds: dict[str, list[float]] = {"ours": [], "torchmetrics": []}
    values: dict[str, list[float]] = {}
    for turn in range(arguments.rounds + 1):  # the first is not counted
        for name, compute in (("ours", ours), ("torchmetrics", theirs)):
            start = time.perf_counter()
            values[name] = compute(data, truth, detections)
            if turn:
                seconds[name].append(round(time.perf_counter() - start, 4))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    record = {
        "kind": "average precision",
        **environment(gpu=False),
        "seed": 0,
        "settings": {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k != "out"
        },
        "data": {"images": len(data.evaluation), "classes": len(data.classes)},
        "rounds": arguments.rounds,
        "seconds": seconds,
        "torchmetrics_times_ours": round(medians["torchmetrics"] / medians["ours"], 3),
        "largest_difference": max(abs(a - b) for a, b in zip(*values.values(), strict=True)),
    }
    write_json(arguments.out, record)
    print(f"{medians}, torchmetrics takes {record['torchmetrics_times_ours']} times as long")


if __name__ == "__main__":
    main()
