"""Classification: a network trained on mixed batches, its data, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import Batch, EvaluationBatches, TrainingBatches
from recursivemix.data.cache import CACHE_LIMIT, cache_bytes, can_be_cached, stack
from recursivemix.data.images import ImageData, LabelledImages
from recursivemix.data.open import open_images
from recursivemix.data.order import TrainingOrder
from recursivemix.mixing import MixedBatch, Mixer, create_mixer
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel
from recursivemix.training.devices import launched_rank
from recursivemix.training.learner import Learner
from recursivemix.training.task import Task

from .settings import ClassificationSettings

PROBE = 512
"""Number of training images whose accuracy without mixing is measured after each epoch."""


class MixedClassifier(Learner):
    """A classifier trained on mixed batches.

    Args:
        settings: of the run.
        classes: names of the K classes, in the order of their indices.
        image_size: side of the network's input in pixels.
        data: plain values about the data; a checkpoint holds them: at least the number of ``images``, and
            ``mean`` and ``std`` of the preprocessing.
    """

    evaluated = ("acc_clean", "val_loss", "acc1")
    score = "acc1"
    identity = ("model", "classes", "image_size", "mixer")
    mixer: Mixer

    def __init__(
        self,
        settings: ClassificationSettings,
        classes: Sequence[str],
        image_size: int,
        data: dict[str, Any],
    ) -> None:
        super().__init__(settings, {"classes": list(classes), "image_size": image_size, "data": data})
        options = {"seed": settings.seed} | settings.mixer_options
        if settings.label_smoothing:
            options["label_smoothing"] = settings.label_smoothing
        self.network: nn.Module = create_model(settings.model, len(classes), image_size)
        self.mixer = create_mixer(settings.mixer, len(classes), self.network, **options)
        self.means: tuple[str, ...] = ("loss_label", "acc_mixed")
        if self.mixer.trains_regions:
            size = (image_size, image_size)
            self.network = RegionModel(self.network, region_head=settings.region_head, image_size=size)
            self.means = ("loss_label", "loss_consistency", "acc_mixed")
        # The fastest memory format of convolutions, on CPUs and on GPUs in half precision.
        self.network = self.network.to(memory_format=torch.channels_last)
        self.watch: Callable[[MixedBatch], None] | None = None
        """Is called with every mixed batch, to draw it."""
        # Processes fill up their last batches with labels of -1.
        self.val_acc = MulticlassAccuracy(len(classes), average="micro", ignore_index=-1)
        self.acc_clean = MulticlassAccuracy(len(classes), average="micro", ignore_index=-1)
        self.val_loss = MeanMetric()  # over images, not over batches

    @property
    def inference_network(self) -> nn.Module:
        return self.network.backbone if isinstance(self.network, RegionModel) else self.network

    def record(self) -> dict[str, Any]:
        if not isinstance(self.network, RegionModel):
            return {"feature_map": None}
        feature_map = self.network.feature_map
        words = f"{feature_map.name} ({feature_map.layout}, {feature_map.channels} channels)"
        return {"feature_map": words}

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits of (B, 3, H, W) images."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.mixer.enabled = self.mixing
        mixed = self.mixer(batch.images, batch.targets, indices=batch.indices)
        if self.watch is not None:
            self.watch(mixed)
        region_logits = None
        if mixed.boxes is None:
            logits = self.network(mixed.images)
        else:
            logits, region_logits = self.network(mixed.images, mixed.boxes)
        losses = self.mixer.losses(logits, mixed, region_logits)
        self.mixer.remember(mixed, logits)
        values = {f"loss_{name}": loss.detach() for name, loss in losses.items()}
        # A prediction is as right as the mixed label contains its class.
        predicted = logits.detach().argmax(1, keepdim=True)
        values["acc_mixed"] = 100 * mixed.targets.gather(1, predicted).mean()
        zero = torch.zeros_like(values["loss_label"])
        means = [values.get(name, zero) for name in self.means]
        return self.finish_step(list(losses.values()), len(batch.images), index, means)

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch: of the evaluation split (loader 0) or of the probe (loader 1)."""
        logits = self(batch.images).float()
        if dataloader_idx == 1:
            self.acc_clean.update(logits, batch.targets)
            return
        self.val_acc.update(logits, batch.targets)
        losses = nn.functional.cross_entropy(logits, batch.targets, ignore_index=-1, reduction="none")
        self.val_loss.update(losses.double(), (batch.targets >= 0).double())

    def on_validation_epoch_end(self) -> None:
        # The metrics sum over processes: every image counts once.
        self.log("val_loss", self.val_loss.compute().float())
        self.log("acc1", 100 * self.val_acc.compute(), prog_bar=True)
        if self.acc_clean.update_called:
            self.log("acc_clean", 100 * self.acc_clean.compute())
        for metric in (self.val_loss, self.val_acc, self.acc_clean):
            metric.reset()


def open_single_label_images(settings: ClassificationSettings) -> ImageData:
    """Return the data of a run.

    Raises:
        ValueError: data that cannot be used, or images with several labels.
    """
    data = open_images(settings, settings.seed)
    if data.multi_label:
        raise ValueError(
            "fit trains on one label per image: --label-column must name one column without ';' in it"
        )
    return data


class ImageLoading:
    """How labelled images become batches: from memory if they are small, else read in every epoch.

    Args:
        settings: of the run.
        data: the data set.
    """

    def __init__(self, settings: ClassificationSettings, data: ImageData) -> None:
        self.data = data
        self.augmentation = augmentation_of(
            data,
            crop=settings.crop,
            flip=settings.flip,
            color_jitter=settings.color_jitter,
            lighting=settings.lighting,
        )
        self.workers = settings.reading_processes
        self.in_memory = self._decide(settings)

    def _decide(self, settings: ClassificationSettings) -> bool:
        """Return whether the images are kept in memory; raise ValueError if they cannot be."""
        size, possible = self.augmentation.size, can_be_cached(self.augmentation)
        if settings.cache == "yes" and not possible:
            raise ValueError(
                "--cache yes needs images that are only shifted and mirrored: with --crop resized or "
                "--color-jitter they are decoded in each epoch; leave --cache out"
            )
        if settings.cache != "auto":
            return settings.cache == "yes"
        needed = cache_bytes([len(self.data.train), len(self.data.evaluation)], size)
        return possible and size <= SMALL_IMAGE and needed <= CACHE_LIMIT

    def fill_cache(self) -> None:
        """Decode all images if they are kept in memory, and find bad files before the first step."""
        if not self.in_memory:
            return
        size, workers, progress = self.augmentation.size, self.workers, launched_rank() == 0
        train = stack(self.data.train, size, workers, progress, "training images")
        split = f"{self.data.split} images"
        evaluation = stack(self.data.evaluation, size, workers, progress, split)
        self.data = replace(self.data, train=train, evaluation=evaluation)

    def training(
        self, order: TrainingOrder, epoch: Callable[[], int], device: torch.device
    ) -> TrainingBatches:
        """Return the training batches."""
        return TrainingBatches(
            self.data.train,
            order,
            self.augmentation,
            epoch,
            device=device,
            hold=self.in_memory,
            workers=self.workers,
        )

    def evaluation(
        self, images: LabelledImages, batches: Sequence[Tensor], device: torch.device
    ) -> EvaluationBatches:
        """Return evaluation batches of these images."""
        return EvaluationBatches(
            images, batches, self.augmentation, device=device, hold=self.in_memory, workers=self.workers
        )

    def probe(self) -> LabelledImages:
        """Return evenly spaced training images."""
        train = self.data.train
        return train.select(torch.arange(0, len(train), max(1, len(train) // PROBE)))


def create_classifier(
    settings: ClassificationSettings, data: ImageData, checkpoint: dict[str, Any] | None
) -> MixedClassifier:
    """Create network, mixer and metrics."""
    about = {
        "name": "digits" if settings.data is None else str(settings.data),
        "dataset": settings.dataset if settings.data is not None else "digits",
        "val_split": settings.val_split,
        "seed": settings.seed,
        "images": len(data.train),
        "mean": list(data.mean),
        "std": list(data.std),
    }
    return MixedClassifier(settings, data.classes, data.image_size, about)


CLASSIFICATION = Task(
    command="fit",
    open_data=open_single_label_images,
    create_learner=create_classifier,
    create_loading=ImageLoading,
    name_run=lambda settings: f"{settings.model}-{settings.mixer}",
)
