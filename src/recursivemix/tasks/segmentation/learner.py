"""Training of a segmenter, and its evaluation by the overlap of regions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.annotated_batches import AnnotatedBatch
from recursivemix.tasks.backbone import LoadedBackbone
from recursivemix.tasks.settings import SegmentationSettings
from recursivemix.tasks.transfer import create_dense_mixer, fill_backbone
from recursivemix.training.learner import Learner

from .metrics import RegionOverlap
from .model import create_network, normalized, predict_map, segmentation_loss

METRICS = ("miou", "macc", "aacc")


class SegmentationLearner(Learner):
    """A segmenter trained on label maps.

    Args:
        settings: of the run, with all defaults resolved.
        loaded: the backbone it starts from.
        facts: see `Learner`; with what `create_network` needs, and ``image_size``: the shorter side in
            pixels of an image that is evaluated.
    """

    means = ("loss",)
    evaluated = METRICS
    score = "miou"
    identity = ("head", "model", "classes", "image_size", "mixer")

    def __init__(
        self, settings: SegmentationSettings, loaded: LoadedBackbone, facts: dict[str, Any]
    ) -> None:
        super().__init__(settings, facts)
        self.aux_weight = settings.aux_weight
        self.network = create_network(self.hparams)
        fill_backbone(self.network, settings, loaded)
        self.notes = (f"backbone: {loaded}",)
        self.mixer = create_dense_mixer(settings)
        self.overlap = RegionOverlap(len(facts["classes"]))
        self.register_buffer("mean", torch.tensor(loaded.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(loaded.std).view(3, 1, 1), persistent=False)

    def record(self) -> dict[str, Any]:
        return {"backbone": self.hparams["data"]["backbone"]}

    def training_step(self, batch: AnnotatedBatch[Tensor], index: int) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        pixels, maps = normalized(torch.stack(batch.images), mean, std), torch.stack(batch.targets)
        if self.mixer is not None and self.mixing:
            mixed = self.mixer(pixels, maps)
            self.mixer.remember(mixed)
            pixels, maps = mixed.images, mixed.targets
        logits, aux_logits = self.network(pixels)
        losses = segmentation_loss(logits, aux_logits, maps, self.aux_weight)
        return self.finish_step(list(losses.values()), len(batch.images), index)

    def predict_map(self, image: Tensor) -> Tensor:
        """Return (H, W) int64 classes of a (3, H, W) uint8 image, predicted at the scale of training."""
        size = int(self.hparams["image_size"])
        return predict_map(self.network, image, size, self.get_buffer("mean"), self.get_buffer("std"))

    def validation_step(self, batch: AnnotatedBatch[Tensor], index: int) -> None:
        # Images of many sizes would be compiled again and again.
        eager = torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()
        with eager:
            for image, label_map in zip(batch.images, batch.targets, strict=True):
                self.overlap.update(self.predict_map(image), label_map)

    def on_validation_epoch_end(self) -> None:
        metrics = self.overlap.compute()
        for name in METRICS:
            self.log(name, float(metrics[name]), prog_bar=name == self.score)
        per_class = torch.as_tensor(metrics["iou"]).tolist()
        self.per_class = dict(zip(self.hparams["classes"], per_class, strict=True))
        self.overlap.reset()
