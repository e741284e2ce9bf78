"""Load the network of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from recursivemix.models.checkpoint_file import read_checkpoint

from .classification import MixedClassifier


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
    module = MixedClassifier(**checkpoint["hyper_parameters"])
    module.load_state_dict(checkpoint["state_dict"])
    return module
