"""Images per second of ATSS beside torchvision's RetinaNet: same backbone, pyramid, size and batch.

    python benchmarks/detection.py --out results/detection.json

Both get the same images and objects; a round times each detector in turn, and the ratio is of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recursivemix.data.atomic_write import write_json
from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.detection.create import create_detector
from recursivemix.training.environment import environment
from timing import autocast, dtype_name

NAMES = ("atss", "gfl", "retinanet")
PEER = "retinanet"


def main() -> None:
    """Time all detectors side by side and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=320, help="pixels a side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--objects", type=int, default=7, help="objects an image; COCO has about 7")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which measure nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.batch, arguments.channels, arguments.rounds = 64, 1, 16, 1
    device = torch.device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    size = arguments.size
    images = [torch.rand(3, size, size, generator=generator).to(device) for _ in range(arguments.batch)]
    targets = [target_of(arguments.objects, arguments.classes, size, generator, device) for _ in images]
    detectors = {}
    for name in NAMES:
        torch.manual_seed(0)
        loaded = load_backbone("random", arguments.model)
        detectors[name] = create_detector(
            name,
            loaded,
            arguments.classes,
            image_size=size,
            max_size=2 * size,
            channels=arguments.channels,
            depth=4,  # torchvision's head has four convolutions in each tower
        ).to(device)
    seconds: dict[str, dict[str, list[float]]] = {
        way: {name: [] for name in NAMES} for way in ("training", "inference")
    }
    for turn in range(arguments.rounds + 1):  # the first is not counted
        for name, detector in detectors.items():
            for way, step in (("training", train_step), ("inference", inference_step)):
                took = timed(lambda d=detector, s=step: s(d, images, targets), device)
                if turn:
                    seconds[way][name].append(took)
    results: dict[str, Any] = {}
    for way, found in seconds.items():
        medians = {name: statistics.median(values) for name, values in found.items()}
        results[way] = {
            name: {
                "images_per_second": round(len(images) / medians[name], 2),
                f"times_{PEER}": round(medians[PEER] / medians[name], 3),
                "seconds": [round(value, 4) for value in found[name]],
            }
            for name in NAMES
        }
    record = {
        "kind": "detection speed",
        **environment(gpu=device.type == "cuda"),
        "settings": {k: v for k, v in vars(arguments).items() if k != "out"},
        "precision": dtype_name(device),
        "rounds": arguments.rounds,
        "results": results,
    }
    write_json(arguments.out, record)
    for way, found in results.items():
        for name, one in found.items():
            print(f"{way} {name}: {one['images_per_second']} images/s, {one[f'times_{PEER}']} x {PEER}")


def target_of(
    count: int, classes: int, size: int, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Random objects, of COCO's kind of sizes: many small, few large."""
    sides = size * (0.04 + 0.6 * torch.rand(count, 2, generator=generator) ** 2)
    corners = torch.rand(count, 2, generator=generator) * (size - sides)
    labels = torch.randint(classes, (count,), generator=generator)
    return {"boxes": torch.cat([corners, corners + sides], 1).to(device), "labels": labels.to(device)}


def train_step(detector: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """Losses and gradients; no optimizer, which is the same for both."""
    detector.train()
    detector.zero_grad(set_to_none=True)
    with autocast(images[0].device):
        losses = detector(images, targets)
    torch.stack(list(losses.values())).sum().backward()


def inference_step(detector: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """Detections."""
    detector.eval()
    with torch.no_grad(), autocast(images[0].device):
        detector(images)


def timed(step: Any, device: torch.device) -> float:
    """Seconds of one call, waiting for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
