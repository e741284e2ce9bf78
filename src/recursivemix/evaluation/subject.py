"""A checkpoint under measurement: its network, its predictions and the images that probes modify."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.augment import augmentation_of, colour_scale, normalise
from recursivemix.data.batches import EvaluationBatches
from recursivemix.data.cache import stack
from recursivemix.data.images import ImageData, StackedImages
from recursivemix.data.order import evaluation_batches
from recursivemix.models.feature_map import as_logits
from recursivemix.training.devices import LightningPrecision, device_type, lightning_precision
from recursivemix.training.settings import Device, Precision

AUTOCAST: dict[LightningPrecision, torch.dtype | None] = {
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
    "32-true": None,
}


class Predictor:
    """A trained network in eval mode, applied to uint8 images prepared as in training.

    Args:
        network: trained network, without its region head.
        data: data set that gives image size, mean and standard deviation.
        batch_size: images per forward pass.
        device: cpu, gpu or auto.
        precision: autocast precision.
    """

    def __init__(
        self, network: nn.Module, data: ImageData, batch_size: int, device: Device, precision: Precision
    ) -> None:
        self.device = torch.device(device_type(device))
        self.network = network.float().eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.augmentation = augmentation_of(data)
        self.size = self.augmentation.size
        self.batch_size = batch_size
        self._autocast = autocast(device, precision)
        self._colours = colour_scale(self.augmentation.mean, self.augmentation.std, self.device)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalize (N, 3, S, S) uint8 images on the network's device."""
        return normalise(images.to(self.device), self._colours).contiguous(
            memory_format=torch.channels_last
        )

    def logits(self, images: Tensor) -> Tensor:
        """Return (N, K) float32 logits on the CPU for (N, 3, S, S) uint8 images."""
        with torch.inference_mode(), self._autocast:
            parts = [
                as_logits(self.network(self.prepare(part))) for part in torch.split(images, self.batch_size)
            ]
        return torch.cat(parts).float().cpu()

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Return the top-1 accuracy in percent."""
        return percent((self.logits(images).argmax(1) == labels).double().mean())

    def split_logits(self, data: ImageData, workers: int) -> tuple[Tensor, Tensor]:
        """Return (N, K) logits and (N,) or (N, K) labels of the evaluation split, read batch by batch."""
        batches = EvaluationBatches(
            data.evaluation,
            evaluation_batches(len(data.evaluation), self.batch_size),
            self.augmentation,
            device=self.device,
            hold=False,
            workers=workers,
        )
        logits, labels = [], []
        with torch.inference_mode(), self._autocast:
            for pixels, batch_labels, _ in batches:
                logits.append(as_logits(self.network(pixels)).float().cpu())
                labels.append(batch_labels.cpu())
        return torch.cat(logits), torch.cat(labels)


def autocast(device: Device, precision: Precision) -> torch.autocast:
    """Return the context in which networks run on a device in a precision."""
    dtype = AUTOCAST[lightning_precision(precision, device)]
    return torch.autocast(device_type(device), dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Subject:
    """What a probe measures."""

    predictor: Predictor
    data: ImageData
    logits: Tensor
    """(N, K) float32: predictions on the evaluation split."""
    labels: Tensor
    """(N,) class indices of that split, or (N, K) multi-hot."""
    subset_size: int
    """Number of images that are corrupted, covered, shrunk or combined."""
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the classes, the number of images and how the subset is chosen, as a record holds them."""
        facts = {"classes": list(self.data.classes), "images": len(self.labels)}
        return facts | {"subset": self.subset_size, "seed": self.seed}

    @cached_property
    def subset(self) -> StackedImages:
        """Images spread evenly over the evaluation split, in memory; read when a probe first needs them."""
        count, total = self.subset_size, len(self.data.evaluation)
        chosen = self.data.evaluation.select(torch.arange(count) * total // count)
        shape = self.predictor.augmentation
        return stack(chosen, shape.size, 0, False, "test images", shape.resize, shape.interpolation)


def percent(share: Tensor) -> float:
    """Return a share as a plain number in percent."""
    return 100 * float(share)
