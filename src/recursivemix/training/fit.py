"""One training run, from its settings to its folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from recursivemix.data.digits import digits
from recursivemix.data.folder import image_folder
from recursivemix.data.images import ImageData

from .epochs import EpochRows
from .loaders import Loaders
from .module import MixedClassifier

FOLDER_VARIABLE = "RECURSIVEMIX_RUN_FOLDER"


@dataclass(frozen=True)
class FitConfig:
    """Settings of a training run.

    Args:
        data: Folder of images: DIR/train/CLASS and DIR/val/CLASS (or test), or DIR/CLASS with --val-split.
            Without it, scikit-learn's handwritten digits.
        val_split: Share of every class to hold out, where the folder has no val or test.
        image_size: Pixels a side. Default: the images' own size up to 64, else 224.
        model: resnet20 and its family for small images, or any timm model name.
        mixer: none, mixup, cutmix, resizemix or recursivemix.
        mixer_options: Settings of the mixer, such as --mixer-options.omega 0.1.
        region_head: separate (the paper's) or shared; for a mixer that trains regions.
        epochs: Passes over the training images.
        batch_size: Images a step, on each device.
        lr: Peak learning rate of SGD, for the whole batch.
        weight_decay: Weight decay of SGD.
        seed: Of weights, order, augmentation and mixing.
        device: cpu, gpu, or auto for what is there.
        workers: Processes that read images. Default: 0 for the digits, else 2.
        out: Folder of the run; must be new. Default: runs/DATE-TIME-MODEL-MIXER.
    """

    data: Path | None = None
    val_split: float | None = None
    image_size: int | None = None
    model: str = "resnet20"
    mixer: str = "recursivemix"
    mixer_options: dict[str, Any] = field(default_factory=dict)
    region_head: Literal["separate", "shared"] = "separate"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "image_size": 1, "workers": 0, "weight_decay": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
        if self.lr <= 0:
            raise ValueError(f"--lr must be above 0, got {self.lr}")
        check_device(self.device)


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed every check and has written nothing yet."""

    config: FitConfig
    data: ImageData
    module: MixedClassifier
    loaders: Loaders
    folder: Path
    rows: EpochRows
    trainer: Trainer


@dataclass(frozen=True)
class Result:
    """What a finished run knows of itself. Accuracies are percent of the evaluation split."""

    folder: Path
    rows: list[dict[str, float]]
    acc1: float
    """At the last epoch."""
    best_acc1: float
    best_epoch: int
    seconds: float
    images_per_second: float
    """Training alone."""
    evaluated: int
    """Images that the accuracy is of."""


def load_data(data: Path | None, val_split: float | None, image_size: int | None, seed: int) -> ImageData:
    """The data of a run: a folder's, or the digits."""
    if data is not None:
        return image_folder(data, val_split=val_split, image_size=image_size, seed=seed)
    if val_split is not None or image_size is not None:
        raise ValueError("--val-split and --image-size belong to a folder of images: give --data DIR")
    return digits()


def check_device(device: str) -> None:
    """Say early, and in one line, that there is no GPU."""
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: torch sees no GPU on this machine; use --device cpu")


def run_folder(config: FitConfig) -> Path:
    """The folder of a run, new and the same for all processes of it; makes nothing."""
    known = os.environ.get(FOLDER_VARIABLE)
    rank = int(getattr(rank_zero_only, "rank", 0))
    if rank > 0 and known is not None:
        return Path(known)
    folder = config.out or Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{config.model}-{config.mixer}")
    if rank == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the run folder {folder} already exists: name a new one with --out")
    return folder


def prepare(
    config: FitConfig, callbacks: Sequence[Callback], trainer_options: dict[str, Any]
) -> PreparedRun:
    """Load the data, build network, mixer and trainer; raises ValueError for anything that can't be.

    Args:
        config: the run's settings.
        callbacks: more of them, for pictures.
        trainer_options: arguments of Lightning's Trainer; they win over the run's settings.

    Raises:
        ValueError: anything that the person who chose the settings can mend.
    """
    folder = run_folder(config)
    data = load_data(config.data, config.val_split, config.image_size, config.seed)
    seed_everything(config.seed, workers=True, verbose=False)
    module = MixedClassifier(
        model=config.model,
        classes=list(data.classes),
        image_size=data.image_size,
        mixer=config.mixer,
        mixer_options=config.mixer_options,
        region_head=config.region_head,
        lr=config.lr,
        weight_decay=config.weight_decay,
        seed=config.seed,
        data={
            "embedded": config.data is None,
            "val_split": config.val_split,
            "seed": config.seed,
            "mean": list(data.mean),
            "std": list(data.std),
        },
    )
    workers = config.workers if config.workers is not None else 0 if config.data is None else 2
    loaders = Loaders(data, batch_size=config.batch_size, workers=workers, seed=config.seed)
    rows = EpochRows(folder / "metrics.csv")
    trainer = make_trainer(config, folder, [rows, *callbacks], trainer_options)
    return PreparedRun(config, data, module, loaders, folder, rows, trainer)


def make_trainer(
    config: FitConfig, folder: Path, callbacks: list[Callback], trainer_options: dict[str, Any]
) -> Trainer:
    """Lightning's Trainer with what a run always has: last and best checkpoint, a TensorBoard log."""
    checkpoints = folder / "checkpoints"
    last = ModelCheckpoint(checkpoints, "last", enable_version_counter=False)
    best = ModelCheckpoint(checkpoints, "best", monitor="acc1", mode="max", enable_version_counter=False)
    options: dict[str, Any] = {
        "max_epochs": config.epochs,
        "accelerator": config.device,
        "devices": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10,
        "enable_model_summary": False,
        "logger": TensorBoardLogger(folder, name="tensorboard", version=""),
    } | trainer_options
    given = options.pop("callbacks", None) or []
    given = given if isinstance(given, list) else [given]
    for name in ("limit_train_batches", "limit_val_batches", "max_epochs"):
        if options.get(name) == 0:
            raise ValueError(f"--trainer.{name.replace('_', '-')} 0 leaves nothing to train or to evaluate")
    try:
        with quiet_lightning():
            return Trainer(**options, callbacks=[last, best, *callbacks, *given])
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advertisements and its advice for large machines; real warnings still show."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning's own use of torch; nothing its user can mend.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)


def fit(run: PreparedRun) -> Result:
    """Train, and leave in the run's folder the checkpoints, a CSV and a TensorBoard log."""
    run.folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER_VARIABLE] = str(run.folder)  # for the processes that Lightning starts
    trainer, rows = run.trainer, run.rows.rows
    try:
        with quiet_lightning():
            trainer.fit(run.module, datamodule=run.loaders)
            if not rows:
                raise MisconfigurationException(
                    "no epoch was finished: see --epochs and --trainer.max-steps"
                )
            evaluated = [row for row in rows if "acc1" in row]
            if "acc1" not in rows[-1]:  # trainer.check_val_every_n_epoch skipped the last epoch
                loader = run.loaders.evaluation_dataloader()
                (metrics,) = trainer.validate(run.module, loader, verbose=False)
                rows[-1] |= {name: float(value) for name, value in metrics.items()}
                run.rows.write()
    finally:
        del os.environ[FOLDER_VARIABLE]
    # The epoch of best.ckpt: one that was evaluated while training.
    best = max(evaluated or rows[-1:], key=lambda row: row["acc1"])
    return Result(
        folder=run.folder,
        rows=rows,
        acc1=rows[-1]["acc1"],
        best_acc1=best["acc1"],
        best_epoch=int(best["epoch"]),
        seconds=rows[-1]["seconds"],
        images_per_second=run.rows.images / run.rows.train_seconds,
        evaluated=min(run.rows.evaluated, len(run.data.evaluation)),  # several processes pad the set
    )
