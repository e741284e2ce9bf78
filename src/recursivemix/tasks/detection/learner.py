"""Training of a detector, and its evaluation by COCO's metrics."""

from __future__ import annotations

from typing import Any, Literal

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
from .metrics import NAMES, coco_metrics, detections_as_results

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
        self.truth = truth
        self.kinds: tuple[Literal["bbox", "segm"], ...] = ("bbox",)
        self.evaluated = NAMES
        self.score = "ap"
        if isinstance(settings, InstanceSettings):
            self.kinds = ("bbox", "segm")
            self.evaluated = (*NAMES, *(f"segm_{name}" for name in NAMES))
            self.score = "segm_ap"
        self._results: list[dict[str, Any]] = []

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
        self._results = []

    def validation_step(self, batch: Batch, index: int) -> None:
        if not batch.images:
            return
        detections = self.network([image.float() / 255 for image in batch.images])
        categories = self.hparams["data"]["category_ids"]
        for place, one in zip(batch.indices, detections, strict=True):
            masks = one.get("masks") if "segm" in self.kinds else None
            self._results += detections_as_results(
                self.truth["images"][place]["id"],
                one["boxes"].float().cpu(),
                one["scores"].float().cpu(),
                one["labels"].cpu(),
                categories,
                None if masks is None else masks.cpu(),
            )

    def on_validation_epoch_end(self) -> None:
        results = self._results
        if self.trainer.world_size > 1:
            parts: list[list[dict[str, Any]]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(parts, results)
            results = [one for part in parts for one in part]
        for kind in self.kinds:
            metrics = coco_metrics(self.truth, results, kind)
            self.per_class = metrics.pop("per_class")
            prefix = "segm_" if kind == "segm" else ""
            for name in NAMES:
                self.log(f"{prefix}{name}", metrics[name], prog_bar=f"{prefix}{name}" == self.score)
        self._results = []


def as_dict(target: DenseTarget) -> dict[str, Tensor]:
    """Return a target as torchvision's detectors take it."""
    values = {"boxes": target.boxes, "labels": target.labels}
    return values if target.masks is None else values | {"masks": target.masks.to(torch.uint8)}


def _without_crowd(objects: Objects) -> Objects:
    keep = ~objects.crowd
    masks = None if objects.masks is None else objects.masks[keep]
    boxes, labels, crowd, area = (part[keep] for part in objects[:4])
    return Objects(boxes, labels, crowd, area, masks)
