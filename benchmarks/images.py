"""Images per second that loaders deliver: this package beside timm's loader and torchvision's reference.

    python benchmarks/images.py --out results/images.json

The files are JPEG images of 500x375 pixels with the spectrum of natural images, made by this script. Every
contestant reads all of them in each round: random area and aspect ratio, flip, resize, normalized batches
of float32; or resize and center crop for evaluation. Contestants take turns in one process, each round in a
new order, so that other load on the machine hits all alike. A row is the best and the median round; a ratio
is the median over rounds of a contestant's images per second against the fastest peer of the same round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from recursivemix.data.atomic_write import write_json
from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import EvaluationBatches, TrainingBatches
from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder, evaluation_batches
from recursivemix.data.pack import write_pack
from recursivemix.data.settings import AugmentationSettings, ImageSettings
from recursivemix.training.environment import environment
from timing import add_options, prepare, print_table, quartiles

HEIGHT, WIDTH = 375, 500
PACKED_SIZE = 320
"""Shorter side of the packed images in pixels."""
BATCH = 32
CPU = torch.device("cpu")
PEERS = ("timm", "torchvision, PIL", "torchvision, tensor")


@dataclass(frozen=True)
class Sources:
    """The same images as files and as packs."""

    files: Path
    jpeg_pack: Path
    raw_pack: Path


def photograph(seed: int) -> Image.Image:
    """Draw noise whose amplitude falls with the frequency, as in natural images (Field, 1987)."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.fft.fftfreq(HEIGHT)[:, None] * HEIGHT
    x = torch.fft.rfftfreq(WIDTH) * WIDTH
    amplitude = 1 / (y**2 + x**2).sqrt().clamp(min=1) ** 1.1
    grey, *colours = (
        torch.fft.irfft2(amplitude * torch.fft.rfft2(noise), s=(HEIGHT, WIDTH))
        for noise in torch.randn(4, HEIGHT, WIDTH, generator=generator)
    )
    channels = [grey / grey.std() + 0.3 * colour / colour.std() for colour in colours]
    pixels = (128 + 50 * torch.stack(channels, -1)).clamp(0, 255).byte()
    return Image.fromarray(pixels.numpy())


@contextmanager
def written_images(count: int) -> Iterator[Sources]:
    """Write the images of two classes to a temporary folder, and pack them."""
    with TemporaryDirectory() as folder:
        files = Path(folder, "files")
        for i in range(count):
            for split in ("train", "val"):
                path = files / split / f"class{i % 2}" / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                if split == "train":
                    photograph(i).save(path, quality=90)
                else:
                    path.write_bytes((files / "train" / f"class{i % 2}" / f"{i}.jpg").read_bytes())
        packs = []
        for raw in (False, True):
            pack = Path(folder, f"{raw}.pack")
            write_pack(ImageSettings(data=files), pack, size=PACKED_SIZE, raw=raw, progress=False)
            packs.append(pack)
        yield Sources(files, *packs)


Epoch = Callable[[], object]
"""Reads all images once."""


def ours(path: Path, size: int, workers: int, training: bool, exact: bool = False) -> Epoch:
    data = open_data(path, image_size=size, exact_decoding=exact)
    augmentation = augmentation_of(data, AugmentationSettings(crop="resized"))
    if training:
        order = TrainingOrder(len(data.train), BATCH, seed=0)
        batches: Any = TrainingBatches(
            data.train, order, augmentation, lambda: 0, device=CPU, hold=False, workers=workers
        )
    else:
        batches = EvaluationBatches(
            data.evaluation,
            evaluation_batches(len(data.evaluation), BATCH),
            augmentation,
            device=CPU,
            hold=False,
            workers=workers,
        )
    return lambda: [batch.images.shape for batch in batches]


def timm_loader(path: Path, size: int, workers: int, training: bool) -> Epoch:
    """timm's loader with its prefetcher, which collates bytes and normalizes batches."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", str(path / ("train" if training else "val"))),
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=training,
        color_jitter=None,
        interpolation="bilinear",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        num_workers=workers,
        crop_pct=0.875,
        device=CPU,
        pin_memory=False,
        persistent_workers=True,
    )
    return lambda: [images.shape for images, _ in loader]


def torchvision_loader(path: Path, size: int, workers: int, training: bool, backend: str) -> Epoch:
    """The presets of torchvision's classification reference, v2 transforms, on PIL images or tensors."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps: list[Any] = [v2.PILToTensor()] if backend == "tensor" else []
    if training:
        steps += [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        steps += [v2.Resize(round(size / 0.875), antialias=True), v2.CenterCrop(size)]
    if backend == "PIL":
        steps.append(v2.PILToTensor())
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    dataset = ImageFolder(str(path / ("train" if training else "val")), v2.Compose(steps))
    loader = DataLoader(
        dataset, BATCH, shuffle=training, num_workers=workers, persistent_workers=True, drop_last=False
    )
    return lambda: [images.shape for images, _ in loader]


def contestants(sources: Sources, size: int, workers: int, training: bool) -> dict[str, Epoch]:
    """Return what is compared, by name."""
    case = (size, workers, training)
    return {
        "recursivemix, files": ours(sources.files, *case),
        "recursivemix, files, exact": ours(sources.files, *case, exact=True),
        "recursivemix, pack": ours(sources.jpeg_pack, *case),
        "recursivemix, raw pack": ours(sources.raw_pack, *case),
        "timm": timm_loader(sources.files, *case),
        "torchvision, PIL": torchvision_loader(sources.files, *case, "PIL"),
        "torchvision, tensor": torchvision_loader(sources.files, *case, "tensor"),
    }


def measure(
    sources: Sources, case: dict[str, Any], count: int, rounds: int, seed: int
) -> list[dict[str, Any]]:
    """Return one row for each contestant."""
    runs = contestants(sources, case["size"], case["workers"], case["mode"] == "training")
    for run in runs.values():
        run()  # starts the processes
    names, generator = list(runs), torch.Generator().manual_seed(seed)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for i in torch.randperm(len(names), generator=generator).tolist():
            start = perf_counter()
            runs[names[i]]()
            rates[names[i]].append(count / (perf_counter() - start))
    peers = [max(rates[name][i] for name in PEERS) for i in range(rounds)]
    return [
        {
            "name": name,
            **case,
            "median": quartiles(rates[name])[1],
            "best": max(rates[name]),
            "ratio": quartiles([rate / peer for rate, peer in zip(rates[name], peers, strict=True)])[1],
            "ratio_of_best": max(rates[name]) / max(max(rates[peer]) for peer in PEERS),
            "samples": rates[name],
        }
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=7)
    parser.add_argument("--images", type=int, default=192, help="number of images (192)")
    options = parser.parse_args(arguments)
    sizes, workers = (32, 224, 384), (1, 2)
    if options.quick:
        sizes, workers, options.rounds, options.images = (32,), (1,), 1, BATCH
    if options.images % BATCH or options.images < BATCH:
        parser.error(f"--images must be a multiple of {BATCH}: timm's loader drops the rest")
    prepare(options)
    torch.set_num_threads(options.threads or 1)

    rows = []
    with written_images(options.images) as sources:
        sizes_kib = [path.stat().st_size / 1024 for path in sources.files.rglob("*.jpg")]
        for mode in ("training", "evaluation"):
            for size in sizes:
                for count in workers:
                    case = {"mode": mode, "size": size, "workers": count}
                    print(f"\n{mode}, {size} pixels, {count} workers: images per second")
                    measured = measure(sources, case, options.images, options.rounds, options.seed)
                    print_table(measured, ["name", "median", "best", "ratio", "ratio_of_best"])
                    rows += measured
    if options.out is not None:
        record = {
            "benchmark": "images",
            **environment(gpu=False),
            "settings": {
                "images": options.images,
                "image_size": [HEIGHT, WIDTH],
                "mean_kib": sum(sizes_kib) / len(sizes_kib),
                "packed_size": PACKED_SIZE,
                "batch_size": BATCH,
                "peers": list(PEERS),
                "quick": options.quick,
            },
            "seed": options.seed,
            "n": options.rounds,
            "rows": rows,
        }
        write_json(options.out, record)
        print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
