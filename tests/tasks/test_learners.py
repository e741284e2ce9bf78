"""What the learners of detection and segmentation pass to their networks and metrics."""

import pytest
import torch
from torch import nn

from recursivemix.data.annotated import Objects
from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.tasks.detection import task as detection
from recursivemix.tasks.segmentation import task as segmentation
from recursivemix.tasks.settings import DetectionSettings, InstanceSettings, SegmentationSettings


class Recorder(nn.Module):
    """A detector that keeps its targets."""

    def forward(self, images, targets):
        self.targets = targets
        return {"loss": torch.zeros((), requires_grad=True)}


@pytest.mark.parametrize("kind", [DetectionSettings, InstanceSettings])
def test_detectors_do_not_learn_from_crowds(kind, tmp_path, monkeypatch):
    settings = kind(out=tmp_path, channels=16)
    learner = detection.create_learner(settings, detection.open_objects(settings, None), None)
    learner.network = Recorder()
    monkeypatch.setattr(learner, "finish_step", lambda losses, count, index: losses[0])
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 8, 8], [1, 3, 5, 9]])
    masks = torch.arange(3)[:, None, None].expand(3, 16, 16) == torch.arange(16) % 3
    crowd = torch.tensor([False, True, False])
    mixed = Objects(boxes, torch.tensor([1, 2, 3]), crowd, torch.ones(3), masks)
    plain = mixed._replace(crowd=torch.zeros(3, dtype=torch.bool))
    images = [torch.zeros(3, 16, 16, dtype=torch.uint8)] * 2
    learner.training_step(AnnotatedBatch(images, [mixed, plain], [0, 1]), 0)
    for target, kept in zip(learner.network.targets, ([0, 2], [0, 1, 2]), strict=True):
        assert torch.equal(target["boxes"], boxes[kept])
        assert torch.equal(target["labels"], mixed.labels[kept])
        assert torch.equal(target["masks"], masks[kept].to(torch.uint8))


def test_the_overlap_of_an_evaluation_does_not_count_in_the_next(tmp_path, monkeypatch):
    settings = SegmentationSettings(out=tmp_path, channels=16)
    learner = segmentation.create_learner(settings, segmentation.open_maps(settings, None), None)
    logged = {}
    monkeypatch.setattr(learner, "log", lambda name, value, **options: logged.update({name: value}))
    truth = torch.arange(64).view(8, 8) % 11
    for predicted, miou in (((truth + 1) % 11, 0), (truth, 100)):
        monkeypatch.setattr(learner, "predict_map", lambda image, predicted=predicted: predicted)
        learner.validation_step(AnnotatedBatch([truth], [truth.byte()], [0]), 0)
        learner.on_validation_epoch_end()
        assert logged["miou"] == pytest.approx(miou)
