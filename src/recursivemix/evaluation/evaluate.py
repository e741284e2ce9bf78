"""Everything that is asked of a checkpoint, in one record."""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.augment import augmentation_of, colour_scale, normalise
from recursivemix.data.batches import EvaluationBatches
from recursivemix.data.cache import stack
from recursivemix.data.images import ImageData, Subset
from recursivemix.data.names import Source
from recursivemix.data.order import evaluation_batches, generator_of
from recursivemix.models.feature_map import as_logits
from recursivemix.models.region import RegionModel
from recursivemix.training.devices import LightningPrecision, check_device, lightning_precision
from recursivemix.training.settings import Device, Precision

from .activation import activation_maps
from .calibration import brier_score, calibration_error, negative_log_likelihood, reliability
from .corruptions import SEVERITIES, corrupted
from .localisation import pointing
from .measure import open_measured
from .multiple import PICTURES, FourInOne, found_in_top4, four_in_one
from .occlusion import SHARES, occluded
from .scale import SIDES, on_other_ground

AUTOCAST: dict[LightningPrecision, torch.dtype | None] = {
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
    "32-true": None,
}
MAPPED = 100
"""Pictures of four whose activation maps are made."""


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path | None = None,
    batch_size: int = 256,
    device: Device = "auto",
    workers: int = 2,
    dataset: Source | None = None,
    images: int = 2000,
    precision: Precision = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what a checkpoint is worth, on the split that its training was evaluated on.

    Args:
        checkpoint: File written by recursivemix fit.
        data: The folder it was trained on, or another with the same classes. None: the digits.
        batch_size: Images at a time.
        device: cpu, gpu, or auto for what is there.
        workers: Processes that read images; the digits need none.
        dataset: What --data is, as in recursivemix fit. Default: what the network was trained on.
        images: How many test images, spread over the split, are corrupted, covered, shrunk and combined.
        precision: bf16, 16, 32, or auto as in training; activation maps are made in float32.
        seed: Of noise, places and the choice of images that are put together.

    Returns:
        Plain values: accuracies, shares and calibration error in percent; None for what can't be asked,
        such as top-5 with five classes.

    Raises:
        ValueError: a checkpoint or data that can't be used.
    """
    for name, value in (("batch-size", batch_size), ("images", images)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    check_device(device)
    start = time.perf_counter()
    module, opened = open_measured(checkpoint, data, dataset)
    predictor = Predictor(module.network, opened, batch_size, device, precision)
    logits, labels = predictor.split(0 if data is None else workers)
    few = min(images, len(opened.evaluation))
    chosen = [i * len(opened.evaluation) // few for i in range(few)]
    held = stack(Subset(opened.evaluation, chosen), predictor.size, 0, False, "test images")
    result = {
        "kind": "evaluation",
        "checkpoint": str(checkpoint),
        "images": len(labels),
        "classes": list(opened.classes),
        "seed": seed,
        **of_predictions(logits, labels),
        **under_corruption(predictor, held.images, held.labels, seed),
        **under_occlusion(predictor, held.images, held.labels, opened.mean, seed),
        **at_scales(predictor, held.images, held.labels, seed),
        **with_several(predictor, held.images, held.labels, seed),
    }
    return result | {"seconds": round(time.perf_counter() - start, 2)}


class Predictor:
    """A checkpoint's backbone, for bytes: prepares them as its training did.

    Args:
        network: what was trained; a region head is left out.
        data: tells size and colours.
        batch_size: images at a time.
        device: where it runs.
        precision: of its layers.
    """

    def __init__(
        self, network: nn.Module, data: ImageData, batch_size: int, device: Device, precision: Precision
    ) -> None:
        on_gpu = device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        backbone = network.backbone if isinstance(network, RegionModel) else network
        self.backbone = backbone.float().eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.augmentation = augmentation_of(data)
        self.size = self.augmentation.size
        self.batch_size = batch_size
        self.data = data
        self._dtype = AUTOCAST[lightning_precision(precision, device)]
        self._colours = colour_scale(self.augmentation.mean, self.augmentation.std, self.device)

    def prepared(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 as the network takes them, on its device."""
        return normalise(images.to(self.device), self._colours).contiguous(
            memory_format=torch.channels_last
        )

    def logits(self, images: Tensor) -> Tensor:
        """(N, K) float32 on the CPU, of (N, 3, S, S) uint8."""
        with torch.inference_mode(), self._autocast():
            parts = [
                as_logits(self.backbone(self.prepared(part)))
                for part in torch.split(images, self.batch_size)
            ]
        return torch.cat(parts).float().cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Percent of right answers."""
        return percent((self.logits(images).argmax(1) == labels).double().mean())

    def split(self, workers: int) -> tuple[Tensor, Tensor]:
        """(N, K) logits and (N,) labels of the whole evaluation split, read batch by batch."""
        evaluation = self.data.evaluation
        batches = EvaluationBatches(
            evaluation,
            evaluation_batches(len(evaluation), self.batch_size),
            self.augmentation,
            device=self.device,
            hold=False,
            workers=workers,
        )
        logits, labels = [], []
        with torch.inference_mode(), self._autocast():
            for pixels, own, _ in batches:
                logits.append(as_logits(self.backbone(pixels)).float().cpu())
                labels.append(own.cpu())
        return torch.cat(logits), torch.cat(labels)


def of_predictions(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy and calibration of (N, K) logits."""
    classes = logits.shape[1]
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=classes)
    hits = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, right)
    top5 = None
    if classes > 5:
        top5 = percent((logits.topk(5, 1).indices == labels[:, None]).any(1).double().mean())
    table = reliability(logits, labels)
    return {
        "accuracy": {
            "top1": percent(right.mean()),
            "top5": top5,
            "per_class": [
                percent(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)
            ],
        },
        "nll": negative_log_likelihood(logits, labels),
        "brier": brier_score(logits, labels),
        "ece": 100 * calibration_error(table),
        "reliability": {
            "edges": table.edges.tolist(),
            "confidence": [None if math.isnan(v) else v for v in table.confidence.tolist()],
            "accuracy": [None if math.isnan(v) else 100 * v for v in table.accuracy.tolist()],
            "count": table.images.tolist(),
        },
    }


def under_corruption(predictor: Predictor, images: Tensor, labels: Tensor, seed: int) -> dict[str, Any]:
    """Accuracy at each kind and severity."""
    found = {
        kind: [
            predictor.accuracy(
                corrupted(images, kind, severity, generator_of(seed, kind, severity)), labels
            )
            for severity in range(1, 6)
        ]
        for kind in SEVERITIES
    }
    mean = fmean(value for values in found.values() for value in values)
    return {"corruptions": found, "corruption_mean": mean, "corruption_images": len(images)}


def under_occlusion(
    predictor: Predictor, images: Tensor, labels: Tensor, colour: tuple[float, ...], seed: int
) -> dict[str, Any]:
    """Accuracy with a growing patch."""
    values = [
        predictor.accuracy(occluded(images, share, colour, generator_of(seed, "occlusion", i)), labels)
        for i, share in enumerate(SHARES)
    ]
    found = {"share": list(SHARES), "top1": values, "images": len(images)}
    return {"occlusion": found, "occlusion_mean": fmean(values[1:])}


def at_scales(predictor: Predictor, images: Tensor, labels: Tensor, seed: int) -> dict[str, Any]:
    """Accuracy with a shrinking object."""
    values = [
        predictor.accuracy(on_other_ground(images, side, generator_of(seed, "scale", i)), labels)
        for i, side in enumerate(SIDES)
    ]
    found = {"side": list(SIDES), "top1": values, "images": len(images)}
    return {"scale": found, "scale_mean": fmean(values[1:])}


def with_several(predictor: Predictor, images: Tensor, labels: Tensor, seed: int) -> dict[str, Any]:
    """Four objects in a picture: are they named, and does the activation point at them?"""
    four = four_in_one(images, labels, min(PICTURES, len(images)), generator_of(seed, "multiple"))
    if four is None:
        return {"multiple": None, "localisation": None}
    found = found_in_top4(predictor.logits(four.images), four.labels)
    return {
        "multiple": {
            "top4": percent(found.double().mean()),
            "all_four": percent(found.all(1).double().mean()),
            "images": len(found),
        },
        "localisation": _localisation(predictor, four),
    }


def _localisation(predictor: Predictor, four: FourInOne) -> dict[str, Any]:
    count = min(MAPPED, len(four.images))
    pictures = four.images[:count].repeat_interleave(4, 0)
    maps = activation_maps(predictor.backbone, predictor.prepared(pictures), four.labels[:count].flatten())
    found = pointing(maps, four.quarters.repeat(count, 1))
    return {
        "pointing": percent(found.peak_inside.double().mean()),
        "energy": percent(found.energy_inside.double().mean()),
        "maps": len(maps),
    }


def percent(share: Tensor) -> float:
    """A share as a plain number of percent."""
    return 100 * float(share)
