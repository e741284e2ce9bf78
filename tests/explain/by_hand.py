"""Checkpoints made by hand, with fresh weights."""

from __future__ import annotations

import torch

from recursivemix.models.checkpoint_file import write_checkpoint as save
from recursivemix.tasks.classification import MixedClassifier

CLASSES = ["blue", "green", "red"]


def write_checkpoint(
    path, model="resnet20", size=16, mixer="none", classes=CLASSES, dataset="folder", seed=0
):
    """A checkpoint as `recursivemix fit` writes it, with fresh weights."""
    torch.manual_seed(seed)
    data = {
        "dataset": dataset, "val_split": None, "seed": 0, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    settings = {
        "model": model, "classes": list(classes), "image_size": size, "mixer": mixer, "data": data,
    }  # fmt: skip
    module = MixedClassifier(**settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "ranks": []}
    save(content, path)
    return path
