"""A checkpoint's backbone alone, and what a reader of its file must know of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.models.feature_map import as_logits, evaluating
from recursivemix.models.region import RegionModel
from recursivemix.tasks.measure import load_checkpoint

TOLERANCE = 1e-4
"""Largest difference of a logit that rounding explains in float32, as a share of the largest logit."""


@dataclass(frozen=True)
class Trained:
    """A backbone without its region head, on the CPU and in eval mode, and its images."""

    backbone: nn.Module
    model: str
    classes: tuple[str, ...]
    image_size: int
    """Pixels a side."""
    mean: tuple[float, ...]
    """Of the images it was trained on, RGB in [0, 1]."""
    std: tuple[float, ...]
    images: Tensor
    """(3, 3, image_size, image_size): random ones, normalised; every comparison is made on them."""
    logits: Tensor
    """(3, K): the backbone's, of these images."""

    @property
    def scale(self) -> float:
        """Largest absolute logit."""
        return self.logits.abs().max().item()

    def difference(self, logits: Tensor) -> float:
        """Largest absolute difference of (B, K) logits of the first B images from the backbone's own."""
        return (logits.float() - self.logits[: len(logits)]).abs().max().item()

    def agrees(self, difference: float) -> bool:
        return difference <= TOLERANCE * self.scale

    def weights(self) -> dict[str, Tensor]:
        """Its parameters and buffers; each a tensor of its own, as safetensors wants them."""
        return {
            key: value.detach().clone(memory_format=torch.contiguous_format)
            for key, value in self.backbone.state_dict().items()
        }

    def metadata(self) -> dict[str, str]:
        """What a file says of itself: values in JSON, but for the name."""
        values: dict[str, Any] = {
            "num_classes": len(self.classes),
            "label_names": self.classes,
            "input_size": (3, self.image_size, self.image_size),
            "mean": self.mean,
            "std": self.std,
        }
        return {"architecture": self.model} | {name: json.dumps(value) for name, value in values.items()}


def read_trained(checkpoint: Path) -> Trained:
    """The backbone of a checkpoint that ``recursivemix fit`` wrote.

    Raises:
        ValueError: no such file, no such checkpoint, or weights that give no finite logits.
    """
    module = load_checkpoint(checkpoint)
    settings = module.hparams
    network = module.network
    backbone = network.backbone if isinstance(network, RegionModel) else network
    backbone = backbone.to(memory_format=torch.contiguous_format)
    backbone.eval()
    mean, std = (tuple(float(v) for v in settings["data"][name]) for name in ("mean", "std"))
    size = int(settings["image_size"])
    pixels = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    images = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    logits = logits_of(backbone, images)
    if not logits.isfinite().all():
        raise ValueError(
            f"{checkpoint} gives logits that are not finite, so its training diverged: export another "
            f"checkpoint of the run, or train with a lower --lr"
        )
    return Trained(
        backbone=backbone,
        model=settings["model"],
        classes=tuple(settings["classes"]),
        image_size=size,
        mean=mean,
        std=std,
        images=images,
        logits=logits,
    )


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """(B, K) float32 logits of (B, 3, H, W) images in eval mode; Hugging Face's outputs hold theirs."""
    with evaluating(network):
        return as_logits(network(images)).float()
