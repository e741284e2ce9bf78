"""Classification: a network trained on mixed batches, its data, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import Batch, EvaluationBatches, TrainingBatches
from recursivemix.data.cache import CACHE_LIMIT, cache_bytes, can_be_cached, stack
from recursivemix.data.images import ImageData, LabelledImages, spread_indices
from recursivemix.data.open import open_images
from recursivemix.data.order import TrainingOrder
from recursivemix.mixing import MixedBatch, Mixer, create_mixer
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel
from recursivemix.training.devices import launched_rank
from recursivemix.training.learner import Learner
from recursivemix.training.task import Task

from .classification_metrics import MultiLabelScores, SingleLabelScores
from .memorization import mixing_advice
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
        multi_label: train on any number of labels per image, by binary cross-entropy.
    """

    identity = ("model", "classes", "image_size", "mixer")
    mixer: Mixer

    def __init__(
        self,
        settings: ClassificationSettings,
        classes: Sequence[str],
        image_size: int,
        data: dict[str, Any],
        multi_label: bool = False,
    ) -> None:
        facts = {"classes": list(classes), "image_size": image_size, "data": data}
        super().__init__(settings, facts | {"multi_label": multi_label})
        options = {"seed": settings.seed} | settings.mixer_options
        if multi_label:
            options["loss"] = "bce"
        if settings.label_smoothing:
            options["label_smoothing"] = settings.label_smoothing
        self.network: nn.Module = create_model(settings.model, len(classes), image_size)
        self.mixer = create_mixer(settings.mixer, len(classes), self.network, **options)
        self.means: tuple[str, ...] = ("loss_label",) if multi_label else ("loss_label", "acc_mixed")
        if self.mixer.trains_regions:
            size = (image_size, image_size)
            self.network = RegionModel(self.network, region_head=settings.region_head, image_size=size)
            self.means = (self.means[0], "loss_consistency", *self.means[1:])
        # The fastest memory format of convolutions, on CPUs and on GPUs in half precision.
        self.network = self.network.to(memory_format=torch.channels_last)
        self.watch: Callable[[MixedBatch], None] | None = None
        """Is called with every mixed batch, to draw it."""
        scores = MultiLabelScores if multi_label else SingleLabelScores
        self.scores, self.probe_scores = scores(len(classes)), scores(len(classes))
        self.evaluated = (scores.probe_score, *scores.names)
        self.score = scores.score

    @property
    def inference_network(self) -> nn.Module:
        return self.network.backbone if isinstance(self.network, RegionModel) else self.network

    def record(self) -> dict[str, Any]:
        if not isinstance(self.network, RegionModel):
            return {"feature_map": None}
        feature_map = self.network.feature_map
        words = f"{feature_map.name} ({feature_map.layout}, {feature_map.channels} channels)"
        return {"feature_map": words}

    def advice(self, metrics: dict[str, float]) -> str | None:
        train_accuracy = metrics.get("acc_clean")
        return None if train_accuracy is None else mixing_advice(train_accuracy, self.hparams["mixer"])

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
        if "acc_mixed" in self.means:
            # A prediction is as right as the mixed label contains its class.
            predicted = logits.detach().argmax(1, keepdim=True)
            values["acc_mixed"] = 100 * mixed.targets.gather(1, predicted).mean()
        zero = torch.zeros_like(values["loss_label"])
        means = [values.get(name, zero) for name in self.means]
        return self.finish_step(list(losses.values()), len(batch.images), index, means)

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch: of the evaluation split (loader 0) or of the probe (loader 1)."""
        scores = self.probe_scores if dataloader_idx == 1 else self.scores
        scores.update(self(batch.images).float(), batch.targets)

    def on_validation_epoch_end(self) -> None:
        for name, value in self.scores.compute().items():
            self.log(name, value, prog_bar=name == self.score)
        if isinstance(self.scores, MultiLabelScores):
            per_class = self.scores.per_class.tolist()
            self.per_class = dict(zip(self.hparams["classes"], per_class, strict=True))
        if self.probe_scores.loss.update_called:
            self.log(self.probe_scores.probe_score, self.probe_scores.compute()[self.score])
        self.scores.reset()
        self.probe_scores.reset()


def open_run_images(settings: ClassificationSettings) -> ImageData:
    """Return the data of a run.

    Raises:
        ValueError: data that cannot be used.
    """
    return open_images(settings, settings.seed)


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
        return train.select(spread_indices(train, PROBE))


def create_classifier(
    settings: ClassificationSettings, data: ImageData, checkpoint: dict[str, Any] | None
) -> MixedClassifier:
    """Create network, mixer and metrics."""
    source = settings.table or settings.data
    about = {
        "name": "digits" if source is None else str(source),
        "folder": None if settings.data is None else str(settings.data),
        "dataset": "digits" if source is None else settings.dataset,
        "val_split": settings.val_split,
        "seed": settings.seed,
        "images": len(data.train),
        "mean": list(data.mean),
        "std": list(data.std),
    }
    return MixedClassifier(settings, data.classes, data.image_size, about, data.multi_label)


CLASSIFICATION = Task(
    command="fit",
    open_data=open_run_images,
    create_learner=create_classifier,
    create_loading=ImageLoading,
    name_run=lambda settings: f"{settings.model}-{settings.mixer}",
)
