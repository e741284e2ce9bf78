"""Measure a checkpoint's accuracy on the images it was evaluated on during training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from lightning import Trainer

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import EvaluationBatches
from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.data.open import open_data
from recursivemix.data.order import evaluation_batches
from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.measure import load_checkpoint
from recursivemix.training.devices import check_device, lightning_precision
from recursivemix.training.settings import Device, Precision
from recursivemix.training.trainer import quiet_lightning


def open_measured(
    checkpoint: Path, data: Path | None, dataset: Source | None
) -> tuple[MixedClassifier, ImageData]:
    """A checkpoint's network, and the images that its training was evaluated on, prepared as there.

    Args:
        checkpoint: written by `fit`.
        data: the folder it was trained on, or another with the same classes; None: the digits.
        dataset: what ``data`` is; None is what the network was trained on.

    Raises:
        ValueError: no such checkpoint, or data that do not belong to it.
    """
    module = load_checkpoint(checkpoint)
    settings = module.hparams
    origin = settings["data"]
    if data is None and origin["dataset"] != "digits":
        raise ValueError(f"{checkpoint} was trained on other images: name them with --data DIR")
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
            f"{checkpoint} knows {len(settings['classes'])} classes ({', '.join(settings['classes'][:3])}, "
            f"...), the data has {len(images.classes)} ({', '.join(images.classes[:3])}, ...)"
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
        data: The folder it was trained on, or another with the same classes. None: the digits.
        batch_size: Images at a time.
        device: cpu, gpu, or auto for what is there.
        workers: Processes that read images; the digits need none.
        precision: bf16, 16, 32, or auto as in training.
        dataset: What --data is, as in recursivemix fit. Default: what the network was trained on.

    Returns:
        ``acc1`` in percent and ``val_loss``.
    """
    check_device(device)
    module, images = open_measured(checkpoint, data, dataset)
    workers = 0 if data is None else workers
    gpu = device != "cpu" and torch.cuda.is_available()
    loader = EvaluationBatches(
        images.evaluation,
        evaluation_batches(len(images.evaluation), batch_size),
        augmentation_of(images),
        device=torch.device("cuda" if gpu else "cpu"),
        hold=False,
        workers=workers,
    )
    with quiet_lightning():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            precision=lightning_precision(precision, device),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        (metrics,) = trainer.validate(module, loader, verbose=False)
    return {name: float(value) for name, value in metrics.items()}
