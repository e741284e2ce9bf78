"""Dense evaluation by two gloo processes: each image counts once, with the scores of one process."""

import json
import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recursivemix.data.annotated import SelectedImages
from recursivemix.data.atomic_write import finite
from recursivemix.data.formats.coco import annotation_dict
from recursivemix.data.formats.scenes import scenes_with_objects
from recursivemix.data.order import TrainingOrder
from recursivemix.evaluation import dense
from recursivemix.models.trained import load
from recursivemix.tasks.classification_metrics import MultiLabelScores
from recursivemix.tasks.segmentation import task
from recursivemix.tasks.segmentation.metrics import RegionOverlap
from recursivemix.tasks.settings import DetectionSettings, SegmentationSettings
from recursivemix.training.prepare import prepare
from recursivemix.training.trainer import quiet_lightning

IMAGES = 7
"""Evaluation images; two processes get different numbers of them."""


class Oracle(nn.Module):
    """A detector that knows the annotations, with errors that depend on the image alone."""

    def __init__(self, images):
        super().__init__()
        self.known = {int(images[i][0].sum()): images.objects(i) for i in range(len(images))}

    def forward(self, images):
        detections = []
        for image in images:
            key = round(float((255 * image.double()).sum()))
            objects = self.known[key]
            noise = torch.randn(objects.boxes.shape, generator=torch.Generator().manual_seed(key))
            scores = torch.rand(len(noise), generator=torch.Generator().manual_seed(key))
            detections.append({"boxes": objects.boxes + noise, "scores": scores, "labels": objects.labels})
        return detections


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def evaluate(rank, processes, port, folder):
    """Evaluate a detector that was not trained, as torchrun would start it; write the scores."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    out = Path(folder) / str(processes)
    run = prepare(DetectionSettings(out=out, batch_size=2, channels=16, device="cpu", devices=processes))
    images = SelectedImages(run.data.evaluation, range(IMAGES))
    run.loaders.loading.data = replace(run.data, evaluation=images)
    run.learner.network = Oracle(images)
    run.learner.scores.truth = annotation_dict(images, run.data)
    with quiet_lightning():
        (scores,) = run.trainer.validate(run.learner, datamodule=run.loaders, verbose=False)
    if rank == 0:
        (Path(folder) / f"{processes}.json").write_text(json.dumps(scores))


def test_average_precision_of_two_processes(run_ranks, save_trained, monkeypatch, tmp_path):
    for processes in (1, 2):
        run_ranks(evaluate, processes, processes, free_port(), str(tmp_path))
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert one == two
    assert 5 < one["ap"] < 95

    # recursivemix evaluate measures the same.
    opened = scenes_with_objects()
    images = SelectedImages(opened.evaluation, range(IMAGES))
    monkeypatch.setattr(
        dense, "open_detection", lambda *args, **options: replace(opened, evaluation=images)
    )
    origin = {"source": "random", "keys_matched": 0, "keys": 0, "pretrained": False}
    data = {"category_ids": opened.category_ids, "name": "digit scenes", "backbone": origin}
    path = save_trained(task="detection", classes=list(opened.classes), data=data)
    trained = replace(load(path), network=Oracle(images))
    evaluation = dense.evaluate_dense(trained, None, 3, "cpu", 0, "32")
    expected = finite({name: one[name] for name in evaluation["metrics"]})  # None for no large objects
    assert evaluation["metrics"] == pytest.approx(expected)
    assert evaluation["images"] == IMAGES


def maps_of(image):
    """Predicted and annotated classes of one image."""
    generator = torch.Generator().manual_seed(image)
    return torch.randint(5, (2, 8 + image, 9), generator=generator).unbind()


def overlap_of(images):
    overlap = RegionOverlap(5)
    for image in images:
        overlap.update(*maps_of(image))
    return overlap.compute()


def count(rank, port):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    together = overlap_of(range(rank, IMAGES, 2))
    torch.distributed.destroy_process_group()
    alone = overlap_of(range(IMAGES))
    assert torch.equal(together.pop("iou"), alone.pop("iou"))
    assert together == alone


def test_overlap_of_two_processes(run_ranks):
    run_ranks(count, 2, free_port())


@pytest.mark.parametrize(
    ("images", "devices", "alone"),
    [(9, None, True), (9, 1, True), (10, 1, False), (10, 2, True), (5, 2, False), (17, 2, True)],
)
def test_a_segmenter_gets_no_batch_of_one_on_any_device(images, devices, alone, monkeypatch):
    """Batches of 4; each device has half of the images, rounded up."""
    monkeypatch.setattr(
        task, "open_segmentation", lambda *args, **options: SimpleNamespace(train=range(images))
    )
    settings = SegmentationSettings(batch_size=4, devices=devices)
    order = TrainingOrder(images, 4, seed=0, ranks=devices or 1)
    assert alone == (order.batch_length(order.steps - 1) == 1)
    with pytest.raises(ValueError, match="leaves a batch of one") if alone else nullcontext():
        task.open_maps(settings, None)


def score_one_image(rank, port):
    """Both processes get the scores of the only image, which the first one evaluates."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    logits, targets = torch.tensor([[2.0, -1.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    scores = MultiLabelScores(3)
    scores.update(logits, targets if rank == 0 else torch.full_like(targets, -1))
    values = scores.compute()
    torch.distributed.destroy_process_group()
    alone = MultiLabelScores(3)
    alone.update(logits, targets)
    assert values == alone.compute()


def test_several_labels_with_fewer_images_than_processes(run_ranks):
    run_ranks(score_one_image, 2, free_port())
