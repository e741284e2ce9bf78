"""Checkpoints made by hand, with fresh weights."""

from __future__ import annotations

from recursivemix.models.checkpoint_file import write_checkpoint as save
from samples import trained_content

CLASSES = ["blue", "green", "red"]


def write_checkpoint(path, model="resnet20", size=16, classes=CLASSES, dataset="folder", seed=0):
    """A checkpoint as `recursivemix fit` writes it, with fresh weights."""
    data = {"dataset": dataset, "val_split": None, "seed": 0, "mean": [0.5] * 3, "std": [0.25] * 3}
    path.parent.mkdir(parents=True, exist_ok=True)
    save(trained_content(seed=seed, model=model, classes=list(classes), image_size=size, data=data), path)
    return path
