"""Checkpoints made by hand, with fresh weights."""

from __future__ import annotations

import torch

from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.settings import ClassificationSettings

CLASSES = ["blue", "green", "red"]


def write_checkpoint(
    path, model="resnet20", size=16, mixer="none", classes=CLASSES, dataset="folder", seed=0
):
    """A checkpoint as `recursivemix fit` writes it, with fresh weights."""
    torch.manual_seed(seed)
    data = {
        "dataset": dataset, "val_split": None, "seed": 0, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    module = MixedClassifier(ClassificationSettings(model=model, mixer=mixer), classes, size, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "ranks": []}, path
    )
    return path
