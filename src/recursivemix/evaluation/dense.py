"""Measure a detector or a segmenter by the metrics of its training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer

from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.models.trained import TrainedModel, unusable
from recursivemix.tasks import settings_class
from recursivemix.tasks.transfer import SCENES
from recursivemix.training.devices import lightning_precision
from recursivemix.training.learner import Learner
from recursivemix.training.loaders import RunLoaders
from recursivemix.training.record import finite
from recursivemix.training.settings import Device, Precision
from recursivemix.training.task import task_of
from recursivemix.training.trainer import quiet_lightning

from .checkpoint import check_classes

if TYPE_CHECKING:
    from recursivemix.data.annotated import DetectionData, SegmentationData


def evaluate_dense(
    trained: TrainedModel,
    data: Path | None,
    batch_size: int | None,
    device: Device,
    workers: int,
    precision: Precision,
) -> dict[str, Any]:
    """Return the metrics of a detector or segmenter on the evaluation split of a data set.

    Args:
        trained: of detection, instance or semantic segmentation.
        data: folder in a format of its training, with the same classes; None for the synthetic scenes.
        batch_size: images per forward pass; None for that of the training.
        device: cpu, gpu, or auto.
        workers: number of processes that read images; the scenes need none.
        precision: bf16, 16, 32, or auto.

    Raises:
        ValueError: data that cannot be used, or that have other classes.
    """
    origin = trained.settings["data"]
    if data is None and not (isinstance(origin, dict) and origin.get("name") == SCENES):
        raise ValueError(
            f"{trained.path} was not trained on the sample scenes: name its images with --data DIR"
        )
    opened = _open(trained, data)
    given = {"data": data, "device": device, "workers": 0 if data is None else workers}
    given |= {} if batch_size is None else {"batch_size": batch_size}
    learner, loaders = _create(trained, opened, given)
    with quiet_lightning():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision=lightning_precision(precision, device),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        (scores,) = trainer.validate(learner, datamodule=loaders, verbose=False)
    return {
        "task": trained.task,
        "data": {"name": str(data or SCENES), "split": opened.split, "classes": list(opened.classes)},
        "images": len(opened.evaluation),
        "score": learner.score,
        "metrics": {name: finite(float(scores[name])) for name in learner.evaluated},
        "per_class": {name: finite(value) for name, value in learner.per_class.items()},
    }


def _open(trained: TrainedModel, data: Path | None) -> DetectionData | SegmentationData:
    """Open a data set; raise ValueError if its classes are not those of the training."""
    opened: DetectionData | SegmentationData
    if trained.task == "segmentation":
        opened = open_segmentation(data)
    else:
        opened = open_detection(data, masks=trained.task == "instance")
    check_classes(trained, opened.classes)
    return opened


def _create(
    trained: TrainedModel, opened: DetectionData | SegmentationData, given: dict[str, Any]
) -> tuple[Learner, RunLoaders]:
    """Create what a run with the settings of the training, and those given, evaluates with."""
    kind = settings_class(trained.task)
    kept = {item.name for item in fields(kind)} & trained.settings.keys() - {"backbone", "mixer_options"}
    try:
        values = {name: trained.settings[name] for name in kept} | {"mixer": "none", "devices": 1}
        settings = kind(**values | given)
        task = task_of(settings)
        learner = task.create_learner(settings, opened, {"hyper_parameters": trained.settings})
    except Exception as error:  # settings of other types fail anywhere in a constructor
        raise unusable(trained.path, error) from error
    learner.network = trained.network
    return learner, RunLoaders(task.create_loading(settings, opened), settings)
