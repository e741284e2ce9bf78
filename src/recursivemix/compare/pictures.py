"""The page's pictures: what each method makes of the same images, and where each network looks.

Made once from data and checkpoints, and kept beside the records, from which alone the page is rebuilt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.augment import augmentation_of, colour_scale, normalise
from recursivemix.data.cache import stack
from recursivemix.data.images import ImageData, LabelledImages, Subset, denormalise
from recursivemix.evaluation.activation import activation_maps
from recursivemix.report.cells import as_bytes, heaviest, write_picture
from recursivemix.report.overlays import draw_heat
from recursivemix.tasks.measure import load_checkpoint
from recursivemix.training.atomic_write import write_json

from .execute import LAST
from .grid import CompareConfig

SHOWN = 8
TRIES, TYPICAL = 16, 0.7
EARLIER = 3
"""Steps of other images before the one that is shown, so that a method with a memory has one."""


def make_pictures(config: CompareConfig, data: ImageData, folder: Path) -> None:
    """Pictures of every method that has a finished run, from its first seed's last checkpoint."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    colours = (data.mean, data.std)
    size = augmentation_of(data).size
    train = _some(data.train, SHOWN * (EARLIER + 1), size)
    test = _some(data.evaluation, SHOWN, size)
    scale = colour_scale(*colours, torch.device("cpu"))
    train_images, images = normalise(train[0], scale), normalise(test[0], scale)
    shown = as_bytes(denormalise(images, *colours))
    _write_strip(pictures / "cams-images.png", shown)
    captions: dict[str, Any] = {}
    predictions: dict[str, list[str]] = {}
    for label in config.labels:
        checkpoint = folder / "runs" / f"{label}-seed0" / LAST
        if not checkpoint.is_file():
            continue
        module = load_checkpoint(checkpoint)
        mixed, targets = _mixed(module, train_images, train[1])
        _write_strip(pictures / f"gallery-{label}.png", as_bytes(denormalise(mixed, *colours)))
        captions[label] = {
            "captions": [
                ", ".join(f"{name}: {weight:.2f}" for name, weight in heaviest(row, data.classes))
                for row in targets
            ]
        }
        module.network.eval()
        backbone = getattr(module.network, "backbone", module.network)
        with torch.no_grad():
            probabilities = backbone(images).softmax(1)
        maps = activation_maps(backbone, images, test[1])
        heated = [draw_heat(*pair) for pair in zip(shown, maps, strict=True)]
        _write_strip(pictures / f"cams-{label}.png", torch.stack(heated))
        top = probabilities.max(1)
        predictions[label] = [
            f"{data.classes[k]}, {100 * p:.0f} %"
            for k, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
    write_json(pictures / "gallery.json", captions)
    names = [data.classes[label] for label in test[1].tolist()]
    write_json(pictures / "cams.json", {"images": names, "methods": predictions})


def _some(images: LabelledImages, count: int, size: int) -> tuple[Tensor, Tensor]:
    """(count, 3, S, S) uint8 and labels, spread over a set, of as many classes as there are."""
    spread = [i * len(images) // count for i in range(count)]
    held = stack(Subset(images, spread), size, 0, False, "pictures")
    return held.images, held.labels


def _mixed(module: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The last `SHOWN` images and their targets as the method mixes them after `EARLIER` steps.

    The shown ones are the first of ``images``, spread evenly too. Of several draws the one is shown whose
    ``lam`` is nearest to `TYPICAL`: another may mix nothing that could be seen.
    """
    mixer, network = module.mixer, module.network.train()
    order = torch.arange(len(images)).view(SHOWN, EARLIER + 1).T.flip(0)  # the last row: 0, 4, 8, ...
    with torch.no_grad():
        for step, rows in enumerate(order[:-1]):
            rows = rows.roll(EARLIER - step)  # neighbours are of one class, pasted ones should not be
            batch = mixer(images[rows], labels[rows], indices=rows)
            mixer.remember(batch, network(batch.images))
        rows = order[-1]
        batches = [mixer(images[rows], labels[rows], indices=rows) for _ in range(TRIES)]
    batch = min(batches, key=lambda one: abs(float(one.lam.mean()) - TYPICAL))
    return batch.images, batch.targets


def _write_strip(path: Path, images: Tensor) -> None:
    """Write (B, 3, H, W) uint8 pictures side by side with white gaps, as PNG."""
    gap = max(1, images.shape[-1] // 16)
    padded = torch.nn.functional.pad(images, (0, gap), value=255)
    write_picture(torch.cat(list(padded), -1)[..., :-gap], path)
