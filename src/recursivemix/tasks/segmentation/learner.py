"""Training a segmenter, and measuring it by the overlap of regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.annotated_batches import AnnotatedBatch, resized
from recursivemix.mixing import DenseRecursiveMix
from recursivemix.tasks.backbone import BackboneSettings, new_backbone, prepare_norms
from recursivemix.tasks.nomix import NoDenseMix
from recursivemix.training.learner import Learner, Stateful

from .metrics import RegionOverlap
from .model import Segmenter, segmentation_loss

METRICS = ("miou", "macc", "aacc")


class SegmentationLearner(Learner):
    """A segmenter trained on label maps; all arguments are plain values that a checkpoint can hold.

    Args:
        head, channels, aux_weight: see `Segmenter`.
        backbone: see `BackboneSettings`; its weights are loaded by who makes the learner.
        classes: names of the K classes.
        image_size: pixels of the shorter side of an image that is measured.
        norm, frozen_stages: see `prepare_norms`.
        mixer: "none" or "recursivemix".
        mixer_options: keyword arguments of `DenseRecursiveMix`.
        data: what it was trained on, in words and numbers.
        training: settings of optimiser and learning rate, see `Learner`.
    """

    sums = ("loss",)
    evaluated = METRICS
    score = "miou"
    same = ("head", "model", "classes", "image_size", "mixer")

    def __init__(
        self,
        head: Any,
        backbone: BackboneSettings,
        classes: list[str],
        image_size: int,
        channels: int,
        aux_weight: float,
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
        body = loaded.backbone
        self.network: nn.Module = Segmenter(
            body, body.channels, body.strides, len(classes), head, width=channels
        )
        self.mixer: Stateful = (
            NoDenseMix() if mixer == "none" else DenseRecursiveMix(seed=seed, **mixer_options)
        )
        self.overlap = RegionOverlap(len(classes))
        self.register_buffer("mean", torch.tensor(backbone["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone["std"]).view(3, 1, 1), persistent=False)
        self.per_class: dict[str, float] = {}
        """IoU of each class at the last evaluation, in percent."""

    def training_step(self, batch: AnnotatedBatch[Tensor], index: int) -> Tensor:
        images, maps = torch.stack(batch.images), torch.stack(batch.targets)
        pixels = self.normalised(images)
        if isinstance(self.mixer, DenseRecursiveMix):
            mixed = self.mixer(pixels, maps)
            self.mixer.remember(mixed)
            pixels, maps = mixed.images, mixed.targets
        logits, aux_logits = self.network(pixels)
        losses = segmentation_loss(logits, aux_logits, maps, self.hparams["aux_weight"])
        total = torch.stack(list(losses.values())).sum()
        self.add_up(len(images), [total.detach()], total.detach(), index)
        return total * self.window_share(len(images), index)

    def normalised(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 to what the network takes."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images.float() / 255 - mean) / std

    def predict_map(self, image: Tensor) -> Tensor:
        """(H, W) int64 classes of a (3, H, W) uint8 image, measured at the scale of training."""
        small = resized(image, self.hparams["image_size"])
        logits = self.network(self.normalised(small)[None]).float()
        size = image.shape[-2:]
        return nn.functional.interpolate(logits, size=size, mode="bilinear")[0].argmax(0)

    # -- evaluation -----------------------------------------------------------------------------

    def validation_step(self, batch: AnnotatedBatch[Tensor], index: int) -> None:
        for image, label_map in zip(batch.images, batch.targets, strict=True):
            self.overlap.update(self.predict_map(image), label_map)

    def on_validation_epoch_end(self) -> None:
        metrics = self.overlap.compute()
        for name in METRICS:
            self.log(name, float(metrics[name]), prog_bar=name == self.score)
        own = torch.as_tensor(metrics["iou"]).tolist()
        self.per_class = dict(zip(self.hparams["classes"], own, strict=True))
        self.overlap.reset()
