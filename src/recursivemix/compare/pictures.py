"""Draw the pictures of a comparison's page, which are kept beside its records."""

from __future__ import annotations

from copy import deepcopy
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from recursivemix.data.atomic_write import atomic_write, write_json
from recursivemix.data.augment import colour_scale, normalise
from recursivemix.data.cache import stack
from recursivemix.data.images import ImageData, LabelledImages, denormalise
from recursivemix.data.open import open_images
from recursivemix.evaluation.activation import activation_maps
from recursivemix.mixing import create_mixer
from recursivemix.models.trained import TrainedModel, load_task
from recursivemix.report.cells import as_bytes, heaviest, write_picture
from recursivemix.report.overlays import draw_heat
from recursivemix.tasks.settings import ClassificationSettings

from .execute import LAST, is_finished
from .grid import Run, labelled_runs
from .settings import CompareSettings

SHOWN = 8
TRIES, TYPICAL = 16, 0.7
EARLIER = 3
"""Steps before the one that is shown, which fill the history of mixers that have one."""


def make_pictures(settings: CompareSettings, out: Path) -> None:
    """Write the pictures of each method's first finished run into ``OUT/pictures``."""
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    first: dict[str, Run] = {}
    for run in labelled_runs(settings):
        if run.label is not None and is_finished(run, out):
            first.setdefault(run.label, run)
    if settings.is_dense:
        for label, run in first.items():
            _copy_as_jpeg(out / run.folder / "predictions.png", pictures / f"predictions-{label}.jpg")
    else:
        run_settings = settings.standalone_run(settings.labels[0], settings.first_seed)
        assert isinstance(run_settings, ClassificationSettings)
        data = open_images(run_settings, run_settings.seed)
        checkpoints = {label: out / run.folder / LAST for label, run in first.items()}
        for checkpoint in [path for path in checkpoints.values() if path.is_file()][:1]:
            data = data.prepared(load_task(checkpoint, "classification").preprocessing)
        _classification_pictures(data, checkpoints, pictures)


def _copy_as_jpeg(source: Path, target: Path) -> None:
    """Photographs as PNG would make the page five times as large."""
    if source.is_file():
        with Image.open(source) as image, atomic_write(target) as part:
            image.convert("RGB").save(part, "JPEG", quality=88)


def _classification_pictures(data: ImageData, checkpoints: dict[str, Path], pictures: Path) -> None:
    """Draw mixed batches and class activation maps of the last checkpoint of each method.

    The maps show what speaks for the label, or for the strongest prediction where images have several.
    """
    colours = (data.mean, data.std)
    train = _some(data, data.train, SHOWN * (EARLIER + 1))
    test = _some(data, data.evaluation, SHOWN)
    scale = colour_scale(*colours, torch.device("cpu"))
    train_images, images = normalise(train[0], scale), normalise(test[0], scale)
    shown = as_bytes(denormalise(images, *colours))
    _write_strip(pictures / "cams-images.png", shown)
    captions: dict[str, Any] = {}
    predictions: dict[str, list[str]] = {}
    for label, checkpoint in checkpoints.items():
        if not checkpoint.is_file():
            continue
        trained = load_task(checkpoint, "classification")
        mixed, targets = _mixed(trained, train_images, train[1])
        _write_strip(pictures / f"gallery-{label}.png", as_bytes(denormalise(mixed, *colours)))
        shares = [heaviest(row, data.classes) for row in targets]
        captions[label] = {
            "captions": [", ".join(f"{name}: {weight:.2f}" for name, weight in row) for row in shares]
        }
        network = trained.network
        with torch.no_grad():
            logits = network(images)
        top = trained.probabilities(logits).max(1)
        maps = activation_maps(network, images, top.indices if data.multi_label else test[1])
        heated = [draw_heat(*pair) for pair in zip(shown, maps, strict=True)]
        _write_strip(pictures / f"cams-{label}.png", torch.stack(heated))
        predictions[label] = [
            f"{data.classes[k]}, {100 * p:.0f} %"
            for k, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
    write_json(pictures / "gallery.json", captions)
    if data.multi_label:
        names = [", ".join(compress(data.classes, row)) for row in test[1].tolist()]
    else:
        names = [data.classes[label] for label in test[1].tolist()]
    write_json(pictures / "cams.json", {"images": names, "methods": predictions})


def _some(data: ImageData, images: LabelledImages, count: int) -> tuple[Tensor, Tensor]:
    """Return (count, 3, S, S) uint8 images and their labels, spread evenly over a set."""
    spread = torch.arange(count) * len(images) // count
    shape = (data.resize, data.interpolation)
    held = stack(images.select(spread), data.image_size, 0, False, "pictures", *shape)
    return held.images, held.labels


def _mixed(trained: TrainedModel, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return `SHOWN` mixed images and their targets, after `EARLIER` steps with other images.

    Of `TRIES` draws, return the one whose mean ``lam`` is nearest to `TYPICAL`: some draws mix nothing.
    """
    settings, network = trained.settings, deepcopy(trained.network).train()
    options = {"seed": settings["seed"]} | (settings["mixer_options"] or {})
    mixer = create_mixer(settings["mixer"], len(trained.classes), network, **options)
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
