"""Open a checkpoint with the images that its training was evaluated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lightning import Trainer

from recursivemix.data.augment import augmentation_of
from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.measure import load_checkpoint
from recursivemix.training.loaders import Loaders
from recursivemix.training.run import check_device, lightning_precision, quiet_lightning
from recursivemix.training.settings import Device, Precision


def open_measured(
    checkpoint: Path, data: Path | None, dataset: Source | None
) -> tuple[MixedClassifier, ImageData]:
    """Return a checkpoint's module, and its data set with the preprocessing of its training.

    Args:
        checkpoint: file written by `fit`.
        data: folder it was trained on, or another with the same classes; None for the digits.
        dataset: kind of ``data``; None for the kind it was trained on.

    Raises:
        ValueError: a file that is no such checkpoint, or data that do not match it.
    """
    module = load_checkpoint(checkpoint)
    settings = module.hparams
    origin = settings["data"]
    if data is None and origin["dataset"] != "digits":
        raise ValueError(f"{checkpoint} was not trained on the digits: name its images with --data DIR")
    kind: Source = "auto" if data is None else dataset or origin["dataset"]
    has_split = data is None or any((data / name).is_dir() for name in ("val", "test"))
    if not has_split and origin["val_split"] is None and kind == "folder":
        raise ValueError(f"{data} has no val or test folder to measure on")
    images = open_data(
        data,
        kind,
        val_split=None if has_split else origin["val_split"],
        image_size=None if data is None else settings["image_size"],
        seed=origin["seed"],
    )
    images = replace(images, mean=tuple(origin["mean"]), std=tuple(origin["std"]))
    if list(images.classes) != list(settings["classes"]):
        raise ValueError(
            f"{checkpoint} was trained on {len(settings['classes'])} classes "
            f"({', '.join(settings['classes'][:3])}, ...), the data has {len(images.classes)} "
            f"({', '.join(images.classes[:3])}, ...): give data of the same classes"
        )
    return module, images


def measure_checkpoint(
    checkpoint: Path,
    data: Path | None = None,
    batch_size: int = 256,
    device: Device = "auto",
    workers: int = 2,
    precision: Precision = "auto",
    dataset: Source | None = None,
) -> dict[str, float]:
    """Measure a checkpoint on the split that its training was evaluated on.

    Args:
        checkpoint: File written by recursivemix fit.
        data: Folder it was trained on, or another with the same classes (default: the digits).
        batch_size: Images per forward pass.
        device: cpu, gpu, or auto.
        workers: Number of processes that read images; the digits need none.
        precision: bf16, 16, 32, or auto as in training.
        dataset: Kind of --data, as in recursivemix fit (default: as in training).

    Returns:
        ``acc1`` in percent and ``val_loss``.
    """
    check_device(device)
    module, images = open_measured(checkpoint, data, dataset)
    workers = 0 if data is None else workers
    loaders = Loaders(images, augmentation_of(images), batch_size=batch_size, workers=workers, cache="no")
    with quiet_lightning():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision=lightning_precision(precision, device),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        loaders.trainer = trainer
        (metrics,) = trainer.validate(module, loaders.evaluation_dataloader(), verbose=False)
    return {name: float(value) for name, value in metrics.items()}
