"""One training run, from its settings to its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, seed_everything

from recursivemix.data.augment import augmentation_of
from recursivemix.data.images import ImageData
from recursivemix.data.open import open_data
from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.training.epochs import EpochRows
from recursivemix.training.loaders import Loaders
from recursivemix.training.optimizer import check_optimizer
from recursivemix.training.run import (
    PreparedRun,
    check_checkpoint,
    check_device,
    launched_rank,
    make_trainer,
    run_folder,
)

from .classification import MixedClassifier
from .settings import ClassificationSettings, undo_yaml_coercion

FitRun = PreparedRun[ClassificationSettings, ImageData, MixedClassifier, Loaders]
MODULE_SETTINGS = (
    "region_head", "mix_start", "mix_stop", "optimizer", "optimizer_options", "lr", "momentum",
    "weight_decay", "decay_norms", "schedule", "milestones", "gamma", "warmup_epochs", "seed",
)  # fmt: skip
"""Settings that are arguments of `MixedClassifier` too."""


FitConfig = ClassificationSettings
as_words = undo_yaml_coercion


def open_run_data(config: FitConfig) -> ImageData:
    """The data of a run; raises ValueError for what can't be opened."""
    return open_data(
        config.data,
        config.dataset,
        download=config.download,
        val_split=config.val_split,
        image_size=config.image_size,
        train_images=config.train_images,
        skip_bad=config.skip_bad,
        seed=config.seed,
    )


def prepare(
    config: FitConfig,
    callbacks: Sequence[Callback],
    trainer_options: dict[str, Any],
    resume: Path | None = None,
    changed: bool = False,
) -> FitRun:
    """Load the data, build network, mixer and trainer; raises ValueError for anything that can't be.

    Args:
        config: the run's settings.
        callbacks: more of them, for pictures.
        trainer_options: arguments of Lightning's Trainer; they win over the run's settings.
        resume: a checkpoint of the run, in RUN/checkpoints, to go on from.
        changed: go on from it with other data or another number of processes, too.

    Raises:
        ValueError: anything that the person who chose the settings can mend.
    """
    check_optimizer(config.optimizer)
    check_device(config.device)
    name = f"{config.model}-{config.mixer}"
    folder = run_folder(config.out, name) if resume is None else resume.absolute().parent.parent
    data = open_run_data(config)
    seed_everything(config.seed, verbose=False)
    smoothing = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
    module = MixedClassifier(
        model=config.model,
        classes=list(data.classes),
        image_size=data.image_size,
        mixer=config.mixer,
        mixer_options=smoothing | config.mixer_options,
        data={
            "dataset": config.dataset if config.data is not None else "digits",
            "val_split": config.val_split,
            "seed": config.seed,
            "images": len(data.train),
            "mean": list(data.mean),
            "std": list(data.std),
        },
        **{name: getattr(config, name) for name in MODULE_SETTINGS},
    )
    workers = config.workers if config.workers is not None else 0 if config.data is None else 2
    loaders = Loaders(
        data,
        augmentation_of(
            data,
            crop=config.crop,
            flip=config.flip,
            color_jitter=config.color_jitter,
            lighting=config.lighting,
        ),
        batch_size=config.batch_size,
        workers=workers,
        cache=config.cache,
        repeats=config.repeats,
        seed=config.seed,
        progress=launched_rank() == 0,
    )
    rows = EpochRows(folder / "metrics.csv", MixedClassifier)
    checkpoint = None if resume is None else read_checkpoint(resume)
    # Points after the checkpoint were written by a run that is no more.
    purge = None if checkpoint is None else int(checkpoint["global_step"]) + 1
    trainer = make_trainer(config, folder, [rows, *callbacks], trainer_options, purge)
    if resume is not None and checkpoint is not None:
        check_checkpoint(checkpoint, resume, module, trainer, changed)
    return FitRun(config, data, module, loaders, folder, rows, trainer, resume)
