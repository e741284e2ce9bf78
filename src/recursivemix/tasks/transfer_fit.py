"""One transfer run, from its settings to its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning import Callback, seed_everything

from recursivemix.data.annotated import DetectionData, SegmentationData
from recursivemix.data.annotated_batches import DetectionTransform, JointTransform, SegmentationTransform
from recursivemix.data.formats.coco import annotation_dict
from recursivemix.data.formats.scenes import SIDE
from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.tasks.detection.learner import DetectionLearner, InstanceLearner
from recursivemix.tasks.segmentation.learner import SegmentationLearner
from recursivemix.training.epochs import EpochRows
from recursivemix.training.optimizer import check_optimizer
from recursivemix.training.run import (
    PreparedRun,
    check_checkpoint,
    check_device,
    make_trainer,
    run_folder,
)

from .backbone import Backbone, LoadedBackbone, load_backbone, new_backbone
from .settings import DetectionSettings, InstanceSettings, SegmentationSettings, TransferSettings
from .transfer_loaders import TransferLoaders

TransferLearner = DetectionLearner | SegmentationLearner
TransferRun = PreparedRun[TransferSettings, Any, Any, TransferLoaders]
TASKS: dict[str, type[TransferSettings]] = {
    "detection": DetectionSettings,
    "instance": InstanceSettings,
    "segmentation": SegmentationSettings,
}
SCHEDULE = (
    "optimizer", "optimizer_options", "lr", "momentum", "weight_decay", "decay_norms", "schedule",
    "milestones", "gamma", "warmup_epochs", "seed",
)  # fmt: skip
"""What settings and learners call the same."""
RANDOM_LR, TRAINED_LR = 1e-3, 2e-4
"""Peak learning rates, with AdamW, of a backbone that begins from random weights and of a trained one."""
DETECTION_SIZE, SEGMENTATION_SIZE = 800, 512
"""Pixels of the shorter side in the paper's recipes; embedded scenes keep theirs."""


def task_of(config: TransferSettings) -> str:
    """The word for a task on the command line."""
    return next(name for name, kind in TASKS.items() if isinstance(config, kind))


def prepare(
    config: TransferSettings,
    callbacks: Sequence[Callback],
    trainer_options: dict[str, Any],
    resume: Path | None = None,
    changed: bool = False,
) -> tuple[TransferRun, LoadedBackbone]:
    """Load data and backbone, build network and trainer; raises ValueError for anything that can't be.

    Args:
        config: the run's settings.
        callbacks: more of them.
        trainer_options: arguments of Lightning's Trainer; they win over the run's settings.
        resume: a checkpoint of the run, in RUN/checkpoints, to go on from.
        changed: go on from it with other data or another number of processes, too.

    Raises:
        ValueError: anything that the person who chose the settings can mend.
    """
    task = task_of(config)
    check_optimizer(config.optimizer)
    check_device(config.device)
    needed = "segmentation_models_pytorch" if task == "segmentation" else "faster_coco_eval"
    if find_spec(needed) is None:  # known now, and not at the first evaluation
        raise ValueError(f"{task} needs {needed}: pip install 'recursivemix[transfer]'")
    seed_everything(config.seed, verbose=False)  # of random weights, too
    checkpoint = None if resume is None else read_checkpoint(resume)
    if checkpoint is None:
        loaded = load_backbone(config.backbone, config.model, download=config.download)
    else:
        loaded = backbone_of(checkpoint)
    folder = (
        run_folder(config.out, f"{task}-{loaded.model}")
        if resume is None
        else resume.absolute().parent.parent
    )
    data: DetectionData | SegmentationData
    module: TransferLearner
    transform: JointTransform
    truth: dict[str, Any] | None = None
    if isinstance(config, SegmentationSettings):
        data = open_segmentation(config.data, config.dataset)
        size = config.image_size or (SIDE if config.data is None else SEGMENTATION_SIZE)
        if len(data.train) % config.batch_size == 1 or config.batch_size == 1:
            raise ValueError(
                f"--batch-size {config.batch_size} leaves a batch of one of the {len(data.train)} training "
                f"images, of which batch norm can't tell a mean after pooling: choose another"
            )
        module = SegmentationLearner(
            head=config.head,
            image_size=size,
            channels=config.channels,
            aux_weight=config.aux_weight,
            **_common(config, data, loaded),
        )
        transform = SegmentationTransform(size, flip_of(config, data), config.scales, config.color_jitter)
    else:
        assert isinstance(config, DetectionSettings | InstanceSettings)
        instance = isinstance(config, InstanceSettings)
        data = open_detection(config.data, config.dataset, masks=instance)
        sizes = config.image_size or [SIDE if config.data is None else DETECTION_SIZE]
        kind = InstanceLearner if instance else DetectionLearner
        module = kind(
            detector="maskrcnn" if isinstance(config, InstanceSettings) else config.detector,
            image_size=list(sizes),
            max_size=config.max_size,
            channels=config.channels,
            depth=getattr(config, "depth", 1),
            **_common(config, data, loaded),
        )
        transform = DetectionTransform(flip_of(config, data))
        truth = annotation_dict(data.evaluation, data)
    fresh = next(m for m in module.modules() if isinstance(m, Backbone))
    fresh.load_state_dict(loaded.backbone.state_dict())
    workers = config.workers if config.workers is not None else 0 if config.data is None else 2
    loaders: TransferLoaders = TransferLoaders(
        data, transform, truth=truth, batch_size=config.batch_size, workers=workers, seed=config.seed
    )
    rows = EpochRows(folder / "metrics.csv", type(module))
    purge = None if checkpoint is None else int(checkpoint["global_step"]) + 1
    resolved = replace(config, sync_batchnorm=True) if config.norm == "sync" else config
    trainer = make_trainer(resolved, folder, [rows, *callbacks], trainer_options, purge)
    if resume is not None and checkpoint is not None:
        check_checkpoint(checkpoint, resume, module, trainer, changed)
    run: TransferRun = PreparedRun(config, data, module, loaders, folder, rows, trainer, resume)
    return run, loaded


def flip_of(config: TransferSettings, data: DetectionData | SegmentationData) -> bool:
    """Return whether training images are mirrored: as the settings say, else as suits the data."""
    return data.flip if config.flip is None else config.flip


def backbone_of(checkpoint: dict[str, Any]) -> LoadedBackbone:
    """The backbone that a run began with, but for its weights, which the checkpoint holds.

    Raises:
        ValueError: a checkpoint of another command.
    """
    settings = checkpoint["hyper_parameters"]
    if "backbone" not in settings:
        raise ValueError("the checkpoint is of recursivemix fit, not of transfer")
    origin = settings["data"]["backbone"]
    return replace(
        new_backbone(settings["backbone"]),
        source=origin["source"],
        matched=origin["keys_matched"],
        total=origin["keys"],
        pretrained=origin["pretrained"],
    )


def _common(
    config: TransferSettings, data: DetectionData | SegmentationData, loaded: LoadedBackbone
) -> dict[str, Any]:
    """The arguments that all learners take."""
    detects = isinstance(data, DetectionData)
    norm, frozen = config.norm, config.frozen_stages
    if norm == "auto":
        norm = "statistics" if detects and loaded.pretrained else "train"
    if frozen is None:
        frozen = int(detects and loaded.pretrained)
    return {
        "backbone": loaded.settings,
        "classes": list(data.classes),
        "norm": norm,
        "frozen_stages": frozen,
        "mixer": config.mixer,
        "mixer_options": dict(config.mixer_options),
        "data": {
            "name": "digit scenes" if config.data is None else str(config.data),
            "images": len(data.train),
            "category_ids": list(data.category_ids) if isinstance(data, DetectionData) else None,
            "backbone": loaded.origin,
        },
        **{name: getattr(config, name) for name in SCHEDULE},
        "lr": config.lr or (TRAINED_LR if loaded.pretrained else RANDOM_LR),
    }
