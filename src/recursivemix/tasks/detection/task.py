"""The tasks of detection and instance segmentation."""

from __future__ import annotations

from typing import Any

from recursivemix.data.annotated import DetectionData
from recursivemix.data.annotated_batches import DetectionTransform
from recursivemix.data.formats.coco import annotation_dict
from recursivemix.data.formats.scenes import SIDE
from recursivemix.data.open_annotated import open_detection
from recursivemix.tasks.settings import DetectionSettings, InstanceSettings
from recursivemix.tasks.transfer import AnnotatedLoading, facts_of, resolved, start_backbone
from recursivemix.training.task import Task

from .learner import DetectionLearner

DEFAULT_SIZE = 800
"""Shorter side of an image in pixels, as published; the sample scenes keep their own."""
ObjectSettings = DetectionSettings | InstanceSettings


def open_objects(settings: ObjectSettings, checkpoint: dict[str, Any] | None) -> DetectionData:
    """Open the data set of a run; raises ValueError."""
    masks = isinstance(settings, InstanceSettings)
    return open_detection(settings.data, settings.dataset, masks=masks, skip_bad=settings.skip_bad)


def create_learner(
    settings: ObjectSettings, data: DetectionData, checkpoint: dict[str, Any] | None
) -> DetectionLearner:
    """Create detector, mixer and metrics."""
    loaded = start_backbone(settings, checkpoint)
    settings = resolved(settings, loaded, detects=True)
    facts = facts_of(settings, data, loaded)
    facts["image_size"] = settings.image_size or [SIDE if settings.data is None else DEFAULT_SIZE]
    if isinstance(settings, InstanceSettings):
        facts |= {"detector": "maskrcnn", "depth": 1}
    return DetectionLearner(settings, loaded, facts, annotation_dict(data.evaluation, data))


def create_loading(settings: ObjectSettings, data: DetectionData) -> AnnotatedLoading:
    """Load images with their objects; half of the training images are mirrored."""
    flip = data.flip if settings.flip is None else settings.flip
    return AnnotatedLoading(settings, data, DetectionTransform(flip, settings.color_jitter))


DETECTION = Task(
    command="transfer detection",
    open_data=open_objects,
    create_learner=create_learner,
    create_loading=create_loading,
    name_run=lambda settings: f"detection-{settings.model}",
    packages=("faster_coco_eval",),
)
INSTANCE = Task(
    command="transfer instance",
    open_data=open_objects,
    create_learner=create_learner,
    create_loading=create_loading,
    name_run=lambda settings: f"instance-{settings.model}",
    packages=("faster_coco_eval",),
)
