"""A checkpoint's accuracy, measured again on the images it was evaluated on."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning import Trainer

from recursivemix.data.digits import digits
from recursivemix.data.folder import image_folder

from .fit import check_device, quiet_lightning
from .loaders import Loaders
from .module import MixedClassifier


def load_checkpoint(path: Path) -> MixedClassifier:
    """The network of a checkpoint that `fit` wrote; reads tensors and plain values only.

    Raises:
        ValueError: a file that is missing or is no such checkpoint.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        return MixedClassifier.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is no checkpoint of recursivemix fit: {reason}") from error


def measure_checkpoint(
    checkpoint: Path,
    data: Path | None = None,
    batch_size: int = 256,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    workers: int = 2,
) -> dict[str, float]:
    """Measure a checkpoint on the split that its training was evaluated on.

    Args:
        checkpoint: File written by recursivemix fit.
        data: The folder it was trained on, or another with the same classes. None: the digits.
        batch_size: Images at a time.
        device: cpu, gpu, or auto for what is there.
        workers: Processes that read images; the digits need none.

    Returns:
        ``acc1`` in percent and ``val_loss``.
    """
    check_device(device)
    module = load_checkpoint(checkpoint)
    settings = module.hparams
    origin = settings["data"]
    if data is None:
        if not origin["embedded"]:
            raise ValueError(f"{checkpoint} was trained on a folder of images: name it with --data DIR")
        images = digits()
    else:
        has_split = (data / "val").is_dir() or (data / "test").is_dir()
        if not has_split and origin["val_split"] is None and data.is_dir():
            raise ValueError(f"{data} has no val or test folder to measure on")
        share = None if has_split else origin["val_split"]
        size, seed = settings["image_size"], origin["seed"]
        images = image_folder(data, val_split=share, image_size=size, seed=seed)
        images = replace(images, mean=tuple(origin["mean"]), std=tuple(origin["std"]))
    if list(images.classes) != list(settings["classes"]):
        raise ValueError(
            f"{checkpoint} knows {len(settings['classes'])} classes ({', '.join(settings['classes'][:3])}, "
            f"...), the data has {len(images.classes)} ({', '.join(images.classes[:3])}, ...)"
        )
    loaders = Loaders(images, batch_size=batch_size, workers=0 if data is None else workers)
    with quiet_lightning():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        (metrics,) = trainer.validate(module, loaders.evaluation_dataloader(), verbose=False)
    return {name: float(value) for name, value in metrics.items()}
