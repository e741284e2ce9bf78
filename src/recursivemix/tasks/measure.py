"""Load the network of a checkpoint."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.training.settings import RunSettings

from .classification import MixedClassifier
from .settings import ClassificationSettings

SettingsT = TypeVar("SettingsT", bound=RunSettings)


def settings_from(kind: type[SettingsT], hparams: dict[str, Any]) -> SettingsT:
    """Return the settings that a checkpoint holds, without the paths of its run."""
    names = {item.name for item in fields(kind)} - {"data", "out", "backbone", "image_size"}
    return kind(**{name: hparams[name] for name in names & hparams.keys()})


def load_checkpoint(path: Path) -> MixedClassifier:
    """The network of a checkpoint that `fit` wrote; reads tensors and plain values only.

    Raises:
        ValueError: a file that is missing or is no such checkpoint.
    """
    checkpoint = read_checkpoint(path)
    if "backbone" in checkpoint["hyper_parameters"]:
        raise ValueError(
            f"{path} is a checkpoint of recursivemix transfer, not of fit: recursivemix transfer predict"
        )
    hparams = checkpoint["hyper_parameters"]
    settings = settings_from(ClassificationSettings, hparams)
    module = MixedClassifier(settings, hparams["classes"], hparams["image_size"], hparams["data"])
    module.load_state_dict(checkpoint["state_dict"])
    return module
