"""What mixing adds to a training step: seconds and memory, ResNet-18 on 32x32 images or as asked for.

    python benchmarks/step.py --out results/step.json
    python benchmarks/step.py --device cuda --model resnet50 --image-size 224 --num-classes 1000

A step is forward, backward and SGD, channels_last, under bfloat16 autocast where the hardware has it.
Variants take turns within a round; a ratio is the median over rounds of one variant's time against the
plain step's of the same round. Memory is counted twice: from the shapes of what the history holds, and
as the peak of live bytes.
"recursivemix inplace" mixes in the batch that it is given, as the trainer does.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import recursivemix
from recursivemix import Mixer, RecursiveMix, RegionModel
from recursivemix.data.atomic_write import write_json
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.create import create_model
from recursivemix.training.environment import environment
from timing import (
    add_options,
    autocast,
    dtype_name,
    paired_ratio,
    prepare,
    print_table,
    quartiles,
    seconds,
)

PLAIN = "plain"
OURS, INPLACE = "recursivemix", "recursivemix inplace"
VARIANTS = (PLAIN, OURS, INPLACE, "cutmix")


class Setting(NamedTuple):
    """The network, and the batch that a step trains it on."""

    model: str = "resnet18"
    batch_size: int = 128
    image_size: int = 32
    num_classes: int = 100


Batch = tuple[Tensor, Tensor]  # images (B, 3, S, S), labels (B,)


def make_batches(setting: Setting, seed: int, device: torch.device) -> list[Batch]:
    """Two batches to take in turn, so that no history is ever the batch it is pasted into."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(2):
        shape = (setting.batch_size, 3, setting.image_size, setting.image_size)
        images = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(setting.num_classes, (setting.batch_size,), generator=generator)
        batches.append((images.to(device), labels.to(device)))
    return batches


def build_step(
    variant: str, setting: Setting, batches: Iterable[Batch], seed: int, device: torch.device
) -> tuple[Callable[[], None], Mixer | None]:
    """A training step of a fresh model, and the mixer in it; every variant starts from equal weights."""
    torch.manual_seed(seed)
    backbone = create_model(setting.model, setting.num_classes, setting.image_size)
    backbone = backbone.to(device).to(memory_format=torch.channels_last)
    mixer = None
    if variant != PLAIN:
        name = variant.removesuffix(" inplace")
        mixer = recursivemix.create_mixer(name, setting.num_classes, seed=seed, inplace=variant == INPLACE)
    model = backbone
    if mixer is not None and mixer.trains_regions:
        model = RegionModel(backbone, image_size=(setting.image_size, setting.image_size))
    # Its time does not depend on the rate; a small one keeps random labels from blowing up.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    turns = itertools.cycle(batches)

    def plain_step() -> None:
        images, labels = next(turns)
        with autocast(device):
            loss = F.cross_entropy(model(images), labels)
        update(loss)

    def mixed_step(mixer: Mixer) -> None:
        batch = mixer(*next(turns))
        with autocast(device):
            if batch.boxes is None:
                logits, region_logits = model(batch.images), None
            else:
                logits, region_logits = model(batch.images, batch.boxes)
            loss = mixer.loss(logits, batch, region_logits)
        mixer.remember(batch, logits)
        update(loss)

    def update(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return (plain_step if mixer is None else lambda: mixed_step(mixer)), mixer


def measure_time(
    setting: Setting, options: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a step, one sample a round for every variant."""
    steps = {}
    for variant in VARIANTS:
        batches = make_batches(setting, options.seed, device)  # one variant writes into its own
        steps[variant] = build_step(variant, setting, batches, options.seed, device)[0]
    for step in steps.values():
        seconds(step, options.warm_up, device)
    samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for i in range(options.rounds):
        # Back and forth, so that what follows the heaviest variant is not always the same one.
        for variant in VARIANTS if i % 2 == 0 else reversed(VARIANTS):
            samples[variant].append(seconds(steps[variant], options.steps, device))
    return samples


def peak_bytes(variant: str, setting: Setting, seed: int, device: torch.device) -> int:
    """Most bytes alive at once in three steps, model and batches included."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run_steps(variant, setting, seed, device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as trace:
        run_steps(variant, setting, seed, device)
        gc.collect()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    # Every allocation is an event of its size and every release one of minus it, in the CPU's memory
    # from the profiler's start on. The trace's own running total also has what other profiles left.
    changes = [e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0]
    changes.sort(key=lambda e: e["ts"])
    return max(itertools.accumulate(e["args"]["Bytes"] for e in changes))


def run_steps(variant: str, setting: Setting, seed: int, device: torch.device) -> None:
    """Three steps: with no history, with one, and with one that came from a mixed batch."""
    step, _ = build_step(variant, setting, make_batches(setting, seed, device), seed, device)
    for _ in range(3):
        step()


def history_bytes(setting: Setting, seed: int, device: torch.device) -> dict[str, int]:
    """What RecursiveMix keeps: its history between two steps, and its region head while it is trained.

    Beside them one step's batch, targets and logits.
    """
    step, mixer = build_step(OURS, setting, make_batches(setting, seed, device), seed, device)
    step()
    assert isinstance(mixer, RecursiveMix)
    assert mixer.history is not None
    history = {name: t.nbytes for name, t in mixer.history._asdict().items() if t is not None}
    rows = setting.batch_size * setting.num_classes * torch.float32.itemsize
    backbone = create_model(setting.model, setting.num_classes, setting.image_size)
    head = RegionModel(backbone, image_size=(setting.image_size, setting.image_size)).region_head
    weights = sum(parameter.nbytes for parameter in head.parameters())
    return {f"history_{name}": size for name, size in history.items()} | {
        "history": sum(history.values()),
        "region_head": 3 * weights,  # with gradients and momentum
        "batch_targets_logits": mixer.history.images.nbytes + 2 * rows,
    }


def goals(setting: Setting, rows: Sequence[dict[str, Any]], one_batch: int) -> list[dict[str, Any]]:
    """What RecursiveMix may add: 2 % of a step's time (1 % of a large image's), 1.1 batches of memory.

    Args:
        setting: The network and its batch.
        rows: Of the record.
        one_batch: Bytes of a batch with its targets and logits.
    """
    limits = {
        "ratio_to_plain": 1.02 if setting.image_size <= SMALL_IMAGE else 1.01,
        "extra_peak_bytes": 1.1 * one_batch,
    }
    return [
        {
            "row": row["name"],
            "value_of": name,
            "at_most": most,
            "value": row[name],
            "reached": row[name] <= most,
        }
        for row in rows
        if row["name"] in (OURS, INPLACE)
        for name, most in limits.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=20)
    parser.add_argument("--steps", type=int, help="steps a sample (1 on the CPU, 20 on CUDA)")
    parser.add_argument("--warm-up", type=int, default=3, help="untimed steps of every variant (3)")
    for name, default in Setting._field_defaults.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"({default})")
    options = parser.parse_args(arguments)
    setting = Setting(*(getattr(options, name) for name in Setting._fields))
    if options.steps is None:
        options.steps = 20 if options.device == "cuda" else 1
    if options.quick:
        setting = Setting(setting.model, 4, 16, 10)
        options.rounds, options.steps, options.warm_up = 1, 1, 1
    device = prepare(options)

    memory = history_bytes(setting, options.seed, device)
    peaks = {variant: peak_bytes(variant, setting, options.seed, device) for variant in VARIANTS}
    samples = measure_time(setting, options, device)
    name = f"{setting.batch_size}x3x{setting.image_size}x{setting.image_size}"
    rows = []
    for variant in VARIANTS:
        low, median, high = quartiles(samples[variant])
        rows.append(
            {
                "name": variant,
                "setting": name,
                "median_s": median,
                "iqr_s": high - low,
                "ratio_to_plain": paired_ratio(samples[variant], samples[PLAIN]),
                "peak_bytes": peaks[variant],
                "extra_peak_bytes": peaks[variant] - peaks[PLAIN],
                "samples_s": samples[variant],
            }
        )
    dtype = dtype_name(device)
    print(f"{setting.model}, {name}, {setting.num_classes} classes, {dtype}, channels_last, {device}")
    print_table(rows, ["name", "median_s", "iqr_s", "ratio_to_plain", "peak_bytes", "extra_peak_bytes"])
    share = memory["history"] / memory["batch_targets_logits"]
    print(f"history: {memory['history']} bytes, {share:.3f} of one batch with targets and logits")
    met = goals(setting, rows, memory["batch_targets_logits"])
    for goal in met:
        verdict = "reached" if goal["reached"] else "not reached"
        print(f"{goal['value_of']} of {goal['row']}: {goal['value']}, at most {goal['at_most']}: {verdict}")
    if options.out is not None:
        record = {
            "benchmark": "step",
            **environment(gpu=options.device == "cuda"),
            "settings": {
                **setting._asdict(),
                "stem": "3x3, no max pooling" if setting.image_size <= SMALL_IMAGE else "the model's own",
                "dtype": dtype,
                "memory_format": "channels_last",
                "device": options.device,
                "steps": options.steps,
                "warm_up": options.warm_up,
                "quick": options.quick,
            },
            "seed": options.seed,
            "n": options.rounds,
            "memory_bytes": memory,
            "history_to_batch": share,
            "rows": rows,
            "goals": met,
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
