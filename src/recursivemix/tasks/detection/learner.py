"""Training a detector, and measuring it by COCO's metrics."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recursivemix.data.annotated import DetectionData, Objects
from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.mixing import DenseRecursiveMix, DenseTarget
from recursivemix.tasks.backbone import BackboneSettings, new_backbone, prepare_norms
from recursivemix.tasks.nomix import NoDenseMix
from recursivemix.training.learner import Learner, Stateful

from .create import create_detector
from .metrics import coco_metrics, detections_as_results
from .names import Detector

Batch = AnnotatedBatch[Objects]
METRICS = ("ap", "ap50", "ap75", "aps", "apm", "apl")


class DetectionLearner(Learner):
    """A detector trained on images with boxes; all arguments are plain values that a checkpoint can hold.

    Args:
        detector: see `create_detector`.
        backbone: see `BackboneSettings`; its weights are loaded by who makes the learner.
        classes: names of the K classes.
        image_size, max_size, channels, depth: see `create_detector`.
        norm, frozen_stages: see `prepare_norms`.
        mixer: "none" or "recursivemix".
        mixer_options: keyword arguments of `DenseRecursiveMix`.
        data: what it was trained on, in words and numbers.
        training: settings of optimiser and learning rate, see `Learner`.
    """

    sums = ("loss",)
    evaluated: ClassVar[tuple[str, ...]] = METRICS
    score: ClassVar[str] = "ap"
    same = ("detector", "model", "classes", "image_size", "mixer")
    kinds: ClassVar[tuple[Literal["bbox", "segm"], ...]] = ("bbox",)
    """What is measured; the score is of the last."""

    def __init__(
        self,
        detector: Detector,
        backbone: BackboneSettings,
        classes: list[str],
        image_size: list[int],
        max_size: int,
        channels: int,
        depth: int,
        norm: Any,
        frozen_stages: int,
        mixer: str,
        mixer_options: dict[str, Any],
        seed: int,
        data: dict[str, Any],
        **training: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams["model"] = backbone["model"]
        loaded = new_backbone(backbone)
        prepare_norms(loaded.backbone, norm, frozen_stages)
        self.network = create_detector(
            detector,
            loaded,
            len(classes),
            image_size=image_size,
            max_size=max_size,
            channels=channels,
            depth=depth,
        )
        self.mixer: Stateful = (
            NoDenseMix() if mixer == "none" else DenseRecursiveMix(seed=seed, **mixer_options)
        )
        self._results: list[dict[str, Any]] = []
        self.per_class: dict[str, float] = {}
        """AP of each class at the last evaluation."""

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, objects, _ = batch
        # A crowd is no object that could be learnt.
        own = [one if not one.crowd.any() else _without_crowd(one) for one in objects]
        pixels = [image.float() / 255 for image in images]
        targets = [DenseTarget(one.boxes, one.labels, one.masks) for one in own]
        if isinstance(self.mixer, DenseRecursiveMix):
            mixed = self.mixer(pixels, targets)
            self.mixer.remember(mixed)
            pixels, targets = mixed.images, mixed.targets
        losses: dict[str, Tensor] = self.network(pixels, [as_dict(target) for target in targets])
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.add_up(len(images), [total.detach()], total.detach(), index)
        return total * self.window_share(len(images), index)

    # -- evaluation -----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._results = []

    def validation_step(self, batch: Batch, index: int) -> None:
        images, _, indices = batch
        if not images:
            return
        data = self._data()
        found = self.network([image.float() / 255 for image in images])
        for place, one in zip(indices, found, strict=True):
            masks = one.get("masks") if "segm" in self.kinds else None
            self._results += detections_as_results(
                data.evaluation.image_id(place),
                one["boxes"].float().cpu(),
                one["scores"].float().cpu(),
                one["labels"].cpu(),
                data.category_ids,
                None if masks is None else masks.cpu(),
            )

    def on_validation_epoch_end(self) -> None:
        results = self._results
        if self.trainer.world_size > 1:
            parts: list[list[dict[str, Any]]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(parts, results)
            results = [one for part in parts for one in part]
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for kind in self.kinds:
            metrics = coco_metrics(datamodule.truth, results, kind)
            self.per_class = metrics.pop("per_class")
            prefix = "segm_" if kind == "segm" else ""
            for name in METRICS:
                self.log(f"{prefix}{name}", metrics[name], prog_bar=f"{prefix}{name}" == self.score)
        self._results = []

    def _data(self) -> DetectionData:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data: DetectionData = datamodule.data
        return data


class InstanceLearner(DetectionLearner):
    """Mask R-CNN: boxes and masks; the score is the masks' AP."""

    evaluated = (*METRICS, *(f"segm_{name}" for name in METRICS))
    score = "segm_ap"
    kinds = ("bbox", "segm")


def as_dict(target: DenseTarget) -> dict[str, Tensor]:
    """A target as torchvision's detectors take it."""
    found = {"boxes": target.boxes, "labels": target.labels}
    return found if target.masks is None else found | {"masks": target.masks.to(torch.uint8)}


def _without_crowd(objects: Objects) -> Objects:
    keep = ~objects.crowd
    masks = None if objects.masks is None else objects.masks[keep]
    boxes, labels, crowd, area = (part[keep] for part in objects[:4])
    return Objects(boxes, labels, crowd, area, masks)
