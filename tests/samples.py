"""Images, checkpoints and options that several tests use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from recursivemix.models.preprocessing import evaluation_resize

FAST = ["--epochs", "2", "--batch-size", "12", "--workers", "0", "--device", "cpu", "--lr", "0.05"]
"""Options of a run of a few seconds on `image_root`."""


def write_images(folder: Path, count: int, *, hue: int = 0, size: tuple[int, int] = (16, 16)) -> None:
    """PNG files whose one bright channel tells their class: a network learns them at once."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(hue)
    for i in range(count):
        pixels = torch.randint(0, 60, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
        pixels[..., hue % 3] += 180
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


def write_image_root(root: Path) -> Path:
    """``train`` and ``val`` of three classes, 16 pixels a side."""
    for hue, name in enumerate(("blue", "green", "red")):
        write_images(root / "train" / name, 12, hue=hue)
        write_images(root / "val" / name, 5, hue=hue)
    return root


def torchvision_evaluation(
    size: int, resize: int | None = None, interpolation: str = "bilinear"
) -> v2.Compose:
    """The resize and center crop of evaluation, by torchvision's transforms; see `Preprocessing`."""
    side = evaluation_resize(size) if resize is None else resize
    return v2.Compose(
        [v2.Resize(side, InterpolationMode(interpolation), antialias=True), v2.CenterCrop(size)]
    )


def trained_content(task: str = "classification", *, seed: int = 0, **settings: object) -> dict[str, Any]:
    """What a checkpoint of a task holds of its network, with random weights.

    Args:
        task: classification (ResNet-20 under a region head, for 16 pixels and three classes), detection,
            instance or segmentation (of 64 pixels and two classes).
        seed: of the weights.
        settings: replace or add hyperparameters.
    """
    from recursivemix.models.create import create_model
    from recursivemix.models.region import RegionModel

    colors = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    if task == "classification":
        hyper: dict[str, Any] = {
            "model": "resnet20",
            "classes": ["cat", "dog", "=SUM(A1)"],
            "image_size": 16,
        }
        hyper["data"] = colors | {"dataset": "folder", "val_split": None, "seed": 0}
    else:
        hyper = {"model": "resnet10t", "classes": ["cat", "=dog"], "channels": 16}
        hyper["backbone"] = colors | {"model": "resnet10t", "image_size": 224}
        hyper["data"] = {"category_ids": None if task == "segmentation" else [7, 9]}
        if task == "segmentation":
            hyper |= {"head": "upernet", "image_size": 64}
        else:
            detector = "maskrcnn" if task == "instance" else "atss"
            hyper |= {"detector": detector, "image_size": [48, 64], "max_size": 96, "depth": 1}
    hyper |= settings
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if task == "classification":
            size = hyper["image_size"]
            network = create_model(hyper["model"], len(hyper["classes"]), size)
            network = RegionModel(network, image_size=(size, size))
        else:
            module = "segmentation.model" if task == "segmentation" else "detection.create"
            network = import_module(f"recursivemix.tasks.{module}").create_network(hyper)
        for name, value in network.state_dict().items():
            if name == "class_logits.bias":  # else a detector finds nothing
                value.fill_(-1)
            if value.is_floating_point() and value.ndim == 1:  # no layer without an effect
                value += 0.1 * torch.rand_like(value)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    return {"state_dict": weights, "hyper_parameters": hyper, "epoch": 1, "global_step": 1}
