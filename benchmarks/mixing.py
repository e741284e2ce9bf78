"""Milliseconds that mixing one batch takes: this package beside torchvision, timm and kornia.

    python benchmarks/mixing.py --out results/mixing.json

All candidates run in one process, in turn, each round in a new order, so that drift of the machine hits
all alike. A sample is the mean of a block of calls; a row is the median over rounds, beside its ratio
to a plain ``images.clone()`` of the same round.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import recursivemix
from recursivemix.data.atomic_write import write_json
from recursivemix.training.environment import environment
from timing import (
    add_options,
    paired_ratio,
    prepare,
    print_table,
    quartiles,
    seconds,
)

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Setting:
    """The batch that is mixed; float32."""

    batch_size: int
    image_size: int
    num_classes: int

    @property
    def name(self) -> str:
        return f"{self.batch_size}x3x{self.image_size}x{self.image_size}"


SETTINGS = (Setting(128, 32, 100), Setting(64, 224, 1000))
QUICK_SETTINGS = (Setting(4, 8, 10), Setting(2, 96, 10))


class Batch(NamedTuple):
    """What a step of a training loop has at hand when it mixes and remembers."""

    images: Tensor  # (B, 3, H, W)
    labels: Tensor  # (B,) int64
    logits: Tensor  # (B, K)


Mix = Callable[[Batch], object]


@dataclass(frozen=True)
class Candidate:
    """One row of the table."""

    name: str
    package: str
    """What must be installed."""
    draws: Literal["none", "batch", "sample"]
    """Whether one decision holds for the batch or each sample has its own: the latter costs more."""
    build: Callable[[int, int], Mix]
    """From the number of classes and a seed."""
    writes_input: bool = False
    """It mixes in the batch it is given, and so saves the copy."""


def plain_copy(num_classes: int, seed: int) -> Mix:
    return lambda batch: batch.images.clone()


def ours(method: str, **options: Any) -> Callable[[int, int], Mix]:
    """The call and `remember`, which every mixer has: together they are what a step costs."""

    def build(num_classes: int, seed: int) -> Mix:
        mixer = recursivemix.create_mixer(method, num_classes, seed=seed, **options)

        def mix(batch: Batch) -> object:
            mixed = mixer(batch.images, batch.labels)
            mixer.remember(mixed, batch.logits)
            return mixed

        return mix

    return build


def torchvision_mixer(method: str) -> Callable[[int, int], Mix]:
    def build(num_classes: int, seed: int) -> Mix:
        from torchvision.transforms import v2

        mixer = getattr(v2, method)(num_classes=num_classes)
        return lambda batch: mixer(batch.images, batch.labels)

    return build


def timm_mixer(**alphas: float) -> Callable[[int, int], Mix]:
    def build(num_classes: int, seed: int) -> Mix:
        from timm.data.mixup import Mixup
        from timm.utils import random_seed

        random_seed(seed)  # it draws from NumPy's global stream
        mixer = Mixup(num_classes=num_classes, label_smoothing=0.0, **alphas)

        return lambda batch: mixer(batch.images, batch.labels)

    return build


def kornia_mixer(method: str, **options: Any) -> Callable[[int, int], Mix]:
    def build(num_classes: int, seed: int) -> Mix:
        import kornia.augmentation

        mixer = getattr(kornia.augmentation, method)(data_keys=["input", "class"], **options)
        return lambda batch: mixer(batch.images, batch.labels)

    return build


COPY = "copy"
CANDIDATES = (
    Candidate(COPY, "torch", "none", plain_copy),
    Candidate("recursivemix RecursiveMix", "torch", "batch", ours("recursivemix")),
    Candidate(
        "recursivemix RecursiveMix inplace",
        "torch",
        "batch",
        ours("recursivemix", inplace=True),
        writes_input=True,
    ),
    Candidate(
        "recursivemix RecursiveMix per_sample", "torch", "sample", ours("recursivemix", per_sample=True)
    ),
    Candidate("recursivemix CutMix", "torch", "batch", ours("cutmix")),
    Candidate("recursivemix MixUp", "torch", "batch", ours("mixup")),
    Candidate("recursivemix ResizeMix", "torch", "batch", ours("resizemix")),
    Candidate("torchvision CutMix", "torchvision", "batch", torchvision_mixer("CutMix")),
    Candidate("torchvision MixUp", "torchvision", "batch", torchvision_mixer("MixUp")),
    Candidate(
        "timm Mixup (cutmix)",
        "timm",
        "batch",
        timm_mixer(mixup_alpha=0.0, cutmix_alpha=1.0),
        writes_input=True,
    ),
    Candidate(
        "timm Mixup (mixup)",
        "timm",
        "batch",
        timm_mixer(mixup_alpha=1.0, cutmix_alpha=0.0),
        writes_input=True,
    ),
    Candidate(
        "kornia RandomCutMixV2",
        "kornia",
        "sample",
        kornia_mixer("RandomCutMixV2", use_correct_lambda=True),
    ),
    Candidate("kornia RandomMixUpV2", "kornia", "sample", kornia_mixer("RandomMixUpV2")),
)


def installed(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that can run here; says which cannot."""
    present = []
    for candidate in candidates:
        if find_spec(candidate.package) is None:
            print(f"skipped: {candidate.name}, {candidate.package} is not installed")
        else:
            present.append(candidate)
    return present


def make_batches(setting: Setting, options: argparse.Namespace, device: torch.device) -> list[Batch]:
    """Two batches to take in turn, so that no history is ever the batch it is pasted into."""
    generator = torch.Generator().manual_seed(options.seed)
    batches = []
    for _ in range(2):
        images = torch.randn(
            setting.batch_size, 3, setting.image_size, setting.image_size, generator=generator
        )
        labels = torch.randint(setting.num_classes, (setting.batch_size,), generator=generator)
        logits = torch.randn(setting.batch_size, setting.num_classes, generator=generator)
        images = images.to(device).contiguous(memory_format=FORMATS[options.memory_format])
        batches.append(Batch(images, labels.to(device), logits.to(device)))
    return batches


def measure(
    candidates: Sequence[Candidate],
    setting: Setting,
    options: argparse.Namespace,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row for every candidate."""
    shared = make_batches(setting, options, device)
    runs: dict[str, Callable[[], object]] = {}
    calls: dict[str, int] = {}
    for candidate in candidates:
        batches = make_batches(setting, options, device) if candidate.writes_input else shared
        mix = candidate.build(setting.num_classes, options.seed)
        run = _taking_turns(mix, batches)
        seconds(run, 3, device)  # the first calls build caches, and have no history
        fits = options.block_ms / 1000 / seconds(run, 3, device)
        runs[candidate.name], calls[candidate.name] = run, min(max(int(fits), 1), 200)

    samples: dict[str, list[float]] = {name: [] for name in runs}
    names, generator = list(runs), torch.Generator().manual_seed(options.seed)
    for _ in range(options.rounds):
        for i in torch.randperm(len(names), generator=generator).tolist():
            runs[names[i]]()  # untimed: not the caches that the one before has left
            samples[names[i]].append(1000 * seconds(runs[names[i]], calls[names[i]], device))

    rows = []
    for candidate in candidates:
        low, median, high = quartiles(samples[candidate.name])
        rows.append(
            {
                "name": candidate.name,
                "setting": setting.name,
                "draws": candidate.draws,
                "writes_input": candidate.writes_input,
                "median_ms": median,
                "iqr_ms": high - low,
                "ratio_to_copy": paired_ratio(samples[candidate.name], samples[COPY]),
                "calls": calls[candidate.name],
                "samples_ms": samples[candidate.name],
            }
        )
    return rows


def _taking_turns(mix: Mix, batches: Sequence[Batch]) -> Callable[[], object]:
    turns = itertools.cycle(batches)
    return lambda: mix(next(turns))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=40)
    parser.add_argument("--memory-format", choices=tuple(FORMATS), default="contiguous")
    parser.add_argument("--block-ms", type=float, default=30.0, help="about how long one sample takes (30)")
    options = parser.parse_args(arguments)
    settings = SETTINGS
    if options.quick:
        settings, options.rounds, options.block_ms = QUICK_SETTINGS, 2, 0.0
    device = prepare(options)

    candidates = installed(CANDIDATES)
    rows = []
    for setting in settings:
        print(f"\n{setting.name}, {setting.num_classes} classes, {options.memory_format}, {device}")
        measured = measure(candidates, setting, options, device)
        print_table(measured, ["name", "draws", "median_ms", "iqr_ms", "ratio_to_copy"])
        rows += measured
    if options.out is not None:
        record = {
            "benchmark": "mixing",
            **environment(gpu=options.device == "cuda"),
            "settings": {
                "dtype": "float32",
                "memory_format": options.memory_format,
                "device": options.device,
                "block_ms": options.block_ms,
                "quick": options.quick,
                "batches": [
                    {"setting": s.name, "batch_size": s.batch_size, "num_classes": s.num_classes}
                    for s in settings
                ],
            },
            "seed": options.seed,
            "n": options.rounds,
            "rows": rows,
        }
        write_json(options.out, record)
        print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
