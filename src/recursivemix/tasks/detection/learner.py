"""Training of a detector, and its evaluation by COCO's metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recursivemix.data.annotated import Objects
from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.mixing import DenseTarget
from recursivemix.tasks.backbone import LoadedBackbone
from recursivemix.tasks.settings import DetectionSettings, InstanceSettings
from recursivemix.tasks.transfer import create_dense_mixer, fill_backbone
from recursivemix.training.learner import Learner

from .create import create_network
from .metrics import ObjectScores

Batch = AnnotatedBatch[Objects]


class DetectionLearner(Learner):
    """A detector trained on images with boxes, and masks for Mask R-CNN.

    Args:
        settings: of the run, with all defaults resolved.
        loaded: the backbone it starts from.
        facts: see `Learner`; with what `create_network` needs.
        truth: objects of the evaluation split in COCO's format.
    """

    means = ("loss",)
    identity = ("detector", "model", "classes", "image_size", "mixer")

    def __init__(
        self,
        settings: DetectionSettings | InstanceSettings,
        loaded: LoadedBackbone,
        facts: dict[str, Any],
        truth: dict[str, Any],
    ) -> None:
        super().__init__(settings, facts)
        self.network = create_network(self.hparams)
        fill_backbone(self.network, settings, loaded)
        self.notes = (f"backbone: {loaded}",)
        self.mixer = create_dense_mixer(settings)
        masks = isinstance(settings, InstanceSettings)
        self.scores = ObjectScores(truth, facts["data"]["category_ids"], masks)
        self.evaluated, self.score = self.scores.names, self.scores.score

    def record(self) -> dict[str, Any]:
        return {"backbone": self.hparams["data"]["backbone"]}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        # Detectors do not learn from crowds.
        objects = [one if not one.crowd.any() else _without_crowd(one) for one in batch.targets]
        pixels = [image.float() / 255 for image in batch.images]
        targets = [DenseTarget(one.boxes, one.labels, one.masks) for one in objects]
        if self.mixer is not None and self.mixing:
            mixed = self.mixer(pixels, targets)
            self.mixer.remember(mixed)
            pixels, targets = mixed.images, mixed.targets
        losses: dict[str, Tensor] = self.network(pixels, [as_dict(target) for target in targets])
        return self.finish_step([loss.float() for loss in losses.values()], len(batch.images), index)

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.scores.update(self.network, batch)

    def on_validation_epoch_end(self) -> None:
        for name, value in self.scores.compute().items():
            self.log(name, value, prog_bar=name == self.score)
        self.per_class = self.scores.per_class
        self.scores.reset()


def as_dict(target: DenseTarget) -> dict[str, Tensor]:
    """Return a target as torchvision's detectors take it."""
    values = {"boxes": target.boxes, "labels": target.labels}
    return values if target.masks is None else values | {"masks": target.masks.to(torch.uint8)}


def _without_crowd(objects: Objects) -> Objects:
    keep = ~objects.crowd
    masks = None if objects.masks is None else objects.masks[keep]
    boxes, labels, crowd, area = (part[keep] for part in objects[:4])
    return Objects(boxes, labels, crowd, area, masks)
