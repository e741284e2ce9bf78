"""The task of semantic segmentation."""

from __future__ import annotations

from typing import Any

from recursivemix.data.annotated import SegmentationData
from recursivemix.data.annotated_batches import SegmentationTransform
from recursivemix.data.formats.scenes import SIDE
from recursivemix.data.open_annotated import open_segmentation
from recursivemix.tasks.settings import SegmentationSettings
from recursivemix.tasks.transfer import AnnotatedLoading, facts_of, resolved, start_backbone
from recursivemix.training.devices import launched_processes
from recursivemix.training.task import Task

from .learner import SegmentationLearner

DEFAULT_SIZE = 512
"""Side of the training crops in pixels, as published; the sample scenes keep their own."""


def crop_size(settings: SegmentationSettings) -> int:
    """Return the side of the training crops in pixels."""
    return settings.image_size or (SIDE if settings.data is None else DEFAULT_SIZE)


def open_maps(settings: SegmentationSettings, checkpoint: dict[str, Any] | None) -> SegmentationData:
    """Open the data set of a run; raises ValueError, also if a training batch would hold one image."""
    data = open_segmentation(settings.data, settings.dataset, skip_bad=settings.skip_bad)
    ranks = max(settings.devices or 1, launched_processes())
    share = -(-len(data.train) // ranks)  # images of each process
    if share % settings.batch_size == 1 or settings.batch_size == 1:
        where = f" on each of {ranks} devices" if ranks > 1 else ""
        raise ValueError(
            f"--batch-size {settings.batch_size} leaves a batch of one of the {len(data.train)} training "
            f"images{where}: BatchNorm needs at least two images per batch after global pooling; choose "
            f"another"
        )
    return data


def create_learner(
    settings: SegmentationSettings, data: SegmentationData, checkpoint: dict[str, Any] | None
) -> SegmentationLearner:
    """Create segmenter, mixer and metrics."""
    loaded = start_backbone(settings, checkpoint)
    settings = resolved(settings, loaded, detects=False)
    facts = facts_of(settings, data, loaded) | {"image_size": crop_size(settings)}
    return SegmentationLearner(settings, loaded, facts)


def create_loading(settings: SegmentationSettings, data: SegmentationData) -> AnnotatedLoading:
    """Load images with their label maps; training images are scaled, cropped and mirrored at random."""
    flip = data.flip if settings.flip is None else settings.flip
    transform = SegmentationTransform(crop_size(settings), flip, settings.scales, settings.color_jitter)
    return AnnotatedLoading(settings, data, transform)


SEGMENTATION = Task(
    command="transfer segmentation",
    open_data=open_maps,
    create_learner=create_learner,
    create_loading=create_loading,
    name_run=lambda settings: f"segmentation-{settings.model}",
    packages=("segmentation_models_pytorch",),
)
