"""What detection and segmentation share: the backbone that a run starts from, and loading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from recursivemix.data.annotated import DetectionData, SegmentationData
from recursivemix.data.annotated_batches import AnnotatedEvaluation, AnnotatedTraining, JointTransform
from recursivemix.data.order import TrainingOrder
from recursivemix.mixing import DenseRecursiveMix
from recursivemix.mixing.checks import options_named
from recursivemix.models.checkpoint_file import CheckpointError

from .backbone import Backbone, LoadedBackbone, new_backbone, prepare_norms
from .backbone_weights import load_backbone
from .settings import TransferSettings

RANDOM_LR, TRAINED_LR = 1e-3, 2e-4
"""Default peak learning rates, for AdamW, of backbones with random and with trained weights."""
PUBLISHED_STAGES = 4
"""Number of stages of the published detectors' backbones, the first of which is not trained."""
SCENES = "digit scenes"
"""Name of the synthetic data in checkpoints."""
SettingsT = TypeVar("SettingsT", bound=TransferSettings)


class AnnotatedLoading:
    """How annotated images become batches.

    Args:
        settings: of the run.
        data: the data set.
        transform: random transform of a training image and its target.
    """

    def __init__(
        self, settings: TransferSettings, data: DetectionData | SegmentationData, transform: JointTransform
    ) -> None:
        self.data = data
        self.transform = transform
        self.workers = settings.reading_processes

    def fill_cache(self) -> None:
        """Do nothing: images of any size are decoded in each epoch."""

    def training(
        self, order: TrainingOrder, epoch: Callable[[], int], device: torch.device
    ) -> AnnotatedTraining[Any]:
        """Return the training batches."""
        images = self.data.train
        return AnnotatedTraining(images, order, self.transform, epoch, device=device, workers=self.workers)

    def evaluation(
        self, images: Any, batches: Sequence[Tensor], device: torch.device
    ) -> AnnotatedEvaluation[Any]:
        """Return evaluation batches of these images."""
        return AnnotatedEvaluation(images, batches, device=device, workers=self.workers)

    def probe(self) -> None:
        """Return None: training images are not evaluated."""


def start_backbone(settings: TransferSettings, checkpoint: dict[str, Any] | None) -> LoadedBackbone:
    """Return the backbone that a run starts from; to resume a run, one whose weights the checkpoint holds.

    Raises:
        ValueError: there is no such backbone, or the checkpoint is not of a transfer run.
    """
    if checkpoint is None:
        return load_backbone(settings.backbone, settings.model, download=settings.download)
    hparams = checkpoint["hyper_parameters"]
    if "backbone" not in hparams:
        raise CheckpointError("the checkpoint is of recursivemix fit, not of recursivemix transfer")
    origin = hparams["data"]["backbone"]
    return replace(
        new_backbone(hparams["backbone"]),
        source=origin["source"],
        matched=origin["keys_matched"],
        total=origin["keys"],
        pretrained=origin["pretrained"],
    )


def resolved(settings: SettingsT, loaded: LoadedBackbone, detects: bool) -> SettingsT:
    """Return settings with the defaults that depend on the backbone.

    Args:
        settings: of the run.
        loaded: the backbone.
        detects: whether the task finds objects.
    """
    trained = detects and loaded.pretrained
    # The first map of a network with fewer lies deep in it: most of its layers would not be trained.
    published = int(trained and loaded.backbone.stages >= PUBLISHED_STAGES)
    norm, frozen = settings.norm, settings.frozen_stages
    return replace(
        settings,
        model=loaded.model,
        norm=("statistics" if trained else "train") if norm == "auto" else norm,
        frozen_stages=published if frozen is None else frozen,
        lr=settings.lr or (TRAINED_LR if loaded.pretrained else RANDOM_LR),
        sync_batchnorm=settings.sync_batchnorm or norm == "sync",
    )


def facts_of(
    settings: TransferSettings, data: DetectionData | SegmentationData, loaded: LoadedBackbone
) -> dict[str, Any]:
    """Return what a checkpoint must hold beside the settings."""
    return {
        "classes": list(data.classes),
        "backbone": loaded.settings,
        "data": {
            "name": SCENES if settings.data is None else str(settings.data),
            "images": len(data.train),
            "category_ids": list(data.category_ids) if isinstance(data, DetectionData) else None,
            "backbone": loaded.origin,
        },
    }


def fill_backbone(network: torch.nn.Module, settings: TransferSettings, loaded: LoadedBackbone) -> None:
    """Load the backbone's weights into a network, and freeze what the settings say."""
    backbone = next(module for module in network.modules() if isinstance(module, Backbone))
    prepare_norms(backbone, settings.norm, settings.frozen_stages or 0)
    backbone.load_state_dict(loaded.backbone.state_dict())


def create_dense_mixer(settings: TransferSettings) -> DenseRecursiveMix | None:
    """Return the mixer of a run; None for training without mixing."""
    if settings.mixer == "none":
        return None
    with options_named(settings.mixer, DenseRecursiveMix):
        return DenseRecursiveMix(**{"seed": settings.seed} | settings.mixer_options)
