"""A trained classifier with its logits for random images: what every export is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import as_logits, evaluating
from recursivemix.models.trained import TrainedModel, load_task

TOLERANCE = 1e-4
"""Largest difference of a float32 logit that rounding explains, relative to the largest logit."""


@dataclass(frozen=True)
class Reference:
    """A classifier on the CPU, in eval mode and float32, and its logits."""

    network: nn.Module
    trained: TrainedModel
    """Name, classes and preprocessing of the network."""
    images: Tensor
    """(3, 3, S, S) random images, normalized."""
    logits: Tensor
    """(3, K) for ``images``."""

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.trained.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.trained.classes

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return self.trained.multi_label

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return self.trained.preprocessing.size

    @property
    def scale(self) -> float:
        """Largest absolute logit."""
        return self.logits.abs().max().item()

    def difference(self, logits: Tensor) -> float:
        """Return the largest absolute difference of (B, K) logits of the first B images."""
        return (logits.float() - self.logits[: len(logits)]).abs().max().item()

    def agrees(self, difference: float) -> bool:
        """Return whether rounding explains a difference of logits."""
        return difference <= TOLERANCE * self.scale

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and buffers as separate contiguous tensors, as safetensors requires."""
        return {
            key: value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in self.network.state_dict().items()
        }

    def metadata(self) -> dict[str, str]:
        """Return classes and preprocessing for the header of a file, as JSON except ``architecture``."""
        colors = self.trained.preprocessing
        values: dict[str, Any] = {
            "num_classes": len(self.classes),
            "label_names": self.classes,
            "input_size": (3, colors.size, colors.size),
            "resize": colors.resize,
            "interpolation": colors.interpolation,
            "mean": colors.mean,
            "std": colors.std,
        }
        return {"architecture": self.model} | {name: json.dumps(value) for name, value in values.items()}


def read_reference(checkpoint: Path) -> Reference:
    """Load the classifier of a checkpoint and compute its logits.

    Raises:
        ValueError: the checkpoint cannot be used (see `recursivemix.models.trained.load`), is not of
            classification, or gives logits that are not finite.
    """
    trained = load_task(checkpoint, "classification")
    network = trained.network.to(memory_format=torch.contiguous_format)
    colors = trained.preprocessing
    pixels = torch.rand(3, 3, colors.size, colors.size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (colors.mean, colors.std))
    images = (pixels - mean) / std
    logits = logits_of(network, images)
    if not logits.isfinite().all():
        raise ValueError(
            f"{checkpoint} gives logits that are not finite, so its training diverged: export another "
            f"checkpoint of the run, or train with a lower --lr"
        )
    return Reference(network, trained, images, logits)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the (B, K) float32 logits of (B, 3, H, W) images, in eval mode."""
    with evaluating(network):
        return as_logits(network(images)).float()
