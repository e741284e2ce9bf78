"""COCO's metrics: equal to pycocotools', for boxes and masks, with crowds, ties and empty images."""

import contextlib
import io
import math

import pytest
import torch

from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.data.formats.coco_masks import as_run_lengths
from recursivemix.tasks.detection.metrics import (
    NAMES,
    ObjectScores,
    coco_metrics,
    detections_as_results,
)

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "owl"}]
SIZE = (120, 160)


def drawn(box):
    """An ellipse in a box."""
    x1, y1, x2, y2 = box.tolist()
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    centre, half = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
    return ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1


def made_up(seed, masks):
    """Random objects, and detections near them, near nothing, or twice; scores with ties."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(count, columns):
        return torch.rand(count, columns, generator=generator)

    images, annotations, results = [], [], []
    for number in range(1, 13):
        images.append({"id": number, "width": SIZE[1], "height": SIZE[0]})
        count = 0 if number == 4 else int(torch.randint(1, 7, (1,), generator=generator))
        corners = numbers(count, 2) * 60
        boxes = torch.cat([corners, corners + 4 + numbers(count, 2) * 55], 1)
        labels = torch.randint(2 if seed else 3, (count,), generator=generator)
        for box, label in zip(boxes, labels.tolist(), strict=True):
            mask = drawn(box)
            x1, y1, x2, y2 = box.tolist()
            one = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": CATEGORIES[label]["id"],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(mask.sum()) if masks else (x2 - x1) * (y2 - y1),
                "iscrowd": int(torch.rand((), generator=generator) < 0.15),
            }
            if masks:
                one["segmentation"] = as_run_lengths(mask)
            annotations.append(one)
        if number == 5:
            continue
        near = boxes.repeat(2, 1) + 6 * numbers(2 * count, 4) - 3
        astray = numbers(3, 2) * 70
        found = torch.cat([near, torch.cat([astray, astray + 20], 1)])
        found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 2)
        scores = (numbers(len(found), 1)[:, 0] * 8).round() / 8
        kinds = torch.cat([labels, labels, torch.randint(3, (3,), generator=generator)])
        own = torch.stack([drawn(box) for box in found]) if masks else None
        ids = [one["id"] for one in CATEGORIES]
        results += detections_as_results(number, found, scores, kinds, ids, own)
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, results


def by_pycocotools(truth, results, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if kind == "segm":  # with a box, pycocotools would take the box's area for the mask's
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = truth
        annotated.createIndex()
        counted = COCOeval(annotated, annotated.loadRes([dict(one) for one in results]), kind)
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    return [float("nan") if value < 0 else 100 * value for value in counted.stats[:6]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_pycocotools(kind, seed, capsys):
    pytest.importorskip("pycocotools")
    truth, results = made_up(seed, masks=kind == "segm")
    found = coco_metrics(truth, results, kind)
    expected = by_pycocotools(truth, results, kind)
    assert [found[name] for name in NAMES] == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert 5 < found["ap"] < 95
    assert list(found["per_class"]) == [one["name"] for one in CATEGORIES]
    known = [value for value in found["per_class"].values() if not math.isnan(value)]
    assert sum(known) / len(known) == pytest.approx(found["ap"])
    assert capsys.readouterr().out == ""


def test_nothing_found():
    truth, _ = made_up(0, masks=False)
    found = coco_metrics(truth, [])
    assert found["ap"] == found["ap50"] == 0
    assert set(found["per_class"].values()) == {0.0}


def test_perfect_detections():
    truth, _ = made_up(0, masks=False)
    for one in truth["annotations"]:
        one["iscrowd"] = 0
    keys = ("image_id", "category_id", "bbox")
    results = [{key: one[key] for key in keys} | {"score": 1.0} for one in truth["annotations"]]
    assert coco_metrics(truth, results)["ap"] == pytest.approx(100)


class Oracle:
    """A detector that finds the objects of the images it is given, in order."""

    def __init__(self, objects):
        self.objects = iter(objects)

    def __call__(self, images):
        return [next(self.objects) for _ in images]


def test_images_that_were_not_evaluated_do_not_count():
    """As with --trainer.limit-val-batches: a perfect detector of half of the images has an AP of 100."""
    truth, _ = made_up(0, masks=False)
    scores = ObjectScores(truth, [one["id"] for one in CATEGORIES], masks=False)
    places = {one["id"]: place for place, one in enumerate(CATEGORIES)}
    objects = []
    for one in truth["images"][:6]:
        own = [entry for entry in truth["annotations"] if entry["image_id"] == one["id"]]
        boxes = torch.tensor([entry["bbox"] for entry in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([places[entry["category_id"]] for entry in own], dtype=torch.long)
        objects.append({"boxes": boxes, "scores": torch.ones(len(own)), "labels": labels})
    oracle, image = Oracle(objects), torch.zeros(3, 4, 4, dtype=torch.uint8)
    for batch in ([0, 1, 2, 3], [], [4, 5]):
        scores.update(oracle, AnnotatedBatch([image] * len(batch), [], batch))
    assert scores.compute()["ap"] == pytest.approx(100)


def test_no_object_of_a_size():
    truth = {
        "images": [{"id": 1, "width": 50, "height": 50}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
        ],
        "categories": CATEGORIES[:1],
    }
    found = coco_metrics(truth, [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.5}])
    assert found["ap"] == found["aps"] == 100
    assert math.isnan(found["apm"])
    assert math.isnan(found["apl"])
