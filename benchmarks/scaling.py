"""How the cost of mixing grows with classes, batch, image size and ranks, beside the step it is part of.

    python benchmarks/scaling.py --out results/scaling.json

One axis changes at a time; the others stay at 100 classes, 64 images, 64 pixels and one rank. Four curves:

- plain: a training step of a small network without mixing (forward, backward, SGD), float32,
- recursivemix: the same step with RecursiveMix and its region head,
- call: the mixing call and `remember` alone,
- region head: region pooling, its classifier and the consistency loss, forward and backward.

The slope of a curve is the exponent of its growth: that of the line through log(time) over log(value) in a
round, then the median over rounds. A curve is steeper than plain if the difference of the two slopes of a
round is above 0 in at least three quarters of the rounds. The larger the part of the time that does not
depend on the value, the flatter the slope: the growth in milliseconds from the first value to the last is
recorded too. The ranks are processes of one thread that share this machine and average gradients over gloo,
each with the batch of the base.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recursivemix import RecursiveMix, RegionModel
from recursivemix.data.atomic_write import write_json
from recursivemix.mixing.losses import consistency
from recursivemix.models.region import region_pool
from recursivemix.training.environment import environment
from timing import add_options, prepare, print_table, quartiles, seconds

PLAIN, MIXED, CALL, REGION = CURVES = ("plain", "recursivemix", "call", "region head")
WIDTH = 64
"""Channels of the network's last feature map."""


class Point(NamedTuple):
    """One batch, and the number of processes that train on one each."""

    classes: int = 100
    batch: int = 64
    size: int = 64
    ranks: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "classes": (10, 100, 1000, 5000, 22_000),
    "batch": (32, 64, 128, 256, 512, 1024),
    "size": (32, 64, 128, 256, 512),
    "ranks": (1, 2),
}
QUICK_AXES = {"classes": (10, 20), "batch": (2, 4), "size": (16, 32), "ranks": (1, 2)}
QUICK_BASE = Point(classes=10, batch=2, size=16)

Run = Callable[[], object]
Samples = dict[str, list[list[float]]]
"""Milliseconds: for every curve one list per value of the axis, with one sample per round."""


def network(classes: int) -> nn.Module:
    """A classifier with three convolutions of stride 2."""
    widths = (3, 16, 32, WIDTH)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, classes))


def make_batches(point: Point, seed: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Two batches to take in turn, so that no history is the batch that it is pasted into."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(2):
        images = torch.randn(point.batch, 3, point.size, point.size, generator=generator)
        labels = torch.randint(point.classes, (point.batch,), generator=generator)
        batches.append((images.to(device), labels.to(device)))
    return batches


def build(point: Point, seed: int, device: torch.device, group: Any = None) -> dict[str, Run]:
    """Return what is measured of a point, by curve; with a group of processes its models are parallel."""
    torch.manual_seed(seed)
    turns = itertools.cycle(make_batches(point, seed, device))

    def parallel(model: nn.Module) -> nn.Module:
        model = model.to(device)
        return model if group is None else DistributedDataParallel(model, process_group=group)

    model = parallel(network(point.classes))
    regions = parallel(RegionModel(network(point.classes), image_size=(point.size, point.size)))
    mixer, alone = (RecursiveMix(point.classes, seed=seed) for _ in range(2))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, regions)]

    def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def plain() -> None:
        images, labels = next(turns)
        update(F.cross_entropy(model(images), labels), optimizers[0])

    def mixed() -> None:
        batch = mixer(*next(turns))
        logits, region_logits = regions(batch.images, batch.boxes)
        loss = mixer.loss(logits, batch, region_logits)
        mixer.remember(batch, logits)
        update(loss, optimizers[1])

    given = torch.randn(point.batch, point.classes, generator=torch.Generator().manual_seed(seed))
    given = given.to(device)

    def call() -> None:
        alone.remember(alone(*next(turns)), given)

    runs: dict[str, Run] = {PLAIN: plain, MIXED: mixed, CALL: call}
    return runs if group is not None else runs | {REGION: region_head(point, given, device)}


def region_head(point: Point, given: Tensor, device: torch.device) -> Run:
    """Return a pass through region pooling, the second classifier and its loss, and back."""
    side = -(-point.size // 8)
    features = torch.randn(point.batch, WIDTH, side, side, device=device, requires_grad=True)
    quarter, end = point.size // 4, 3 * point.size // 4
    boxes = torch.tensor([[quarter, quarter, end, end]], device=device).expand(point.batch, 4)
    lam = torch.full((point.batch,), 0.75, device=device)
    probs = given.softmax(-1)
    head = nn.Linear(WIDTH, point.classes).to(device)
    mixer = RecursiveMix(point.classes)

    def run() -> None:
        logits = head(region_pool(features, boxes, (point.size, point.size)))
        consistency(mixer.sample_losses(logits, probs), lam).backward()
        features.grad = head.weight.grad = head.bias.grad = None

    return run


def measure_axis(points: Sequence[Point], options: argparse.Namespace, device: torch.device) -> Samples:
    """Time all curves at all points of an axis in turn, so that drift of the machine hits all alike."""
    builds = [build(point, options.seed, device) for point in points]
    calls = [{name: _fitting(run, options.block_ms, device) for name, run in b.items()} for b in builds]
    samples: Samples = {name: [[] for _ in points] for name in CURVES}
    for _ in range(options.rounds):
        for i, runs in enumerate(builds):
            for name, run in runs.items():
                run()  # untimed: the caches that the curve before has left
                samples[name][i].append(1000 * seconds(run, calls[i][name], device))
    return samples


def _fitting(run: Run, block_ms: float, device: torch.device) -> int:
    """Return the number of calls that take about this long, after some to warm up."""
    seconds(run, 2, device)
    return min(max(int(block_ms / 1000 / seconds(run, 1, device)), 1), 200)


# -- ranks --------------------------------------------------------------------------------------------


def measure_ranks(ranks: Sequence[int], point: Point, options: argparse.Namespace) -> Samples:
    """Time steps of groups of processes on this machine, the smaller group while the others wait."""
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[no-untyped-call]
            rank_main, (ranks, point, options, folder), nprocs=max(ranks)
        )
        samples: Samples = json.loads((Path(folder) / "samples.json").read_text())
    return samples


def rank_main(
    rank: int, ranks: Sequence[int], point: Point, options: argparse.Namespace, folder: str
) -> None:
    """One process: take part in every group that it is in; the first one writes the samples."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=max(ranks)
    )
    groups = [dist.new_group(list(range(count))) for count in ranks]
    device = torch.device("cpu")
    builds = [
        build(point, options.seed, device, group) if rank < count else None
        for count, group in zip(ranks, groups, strict=True)
    ]
    samples: Samples = {name: [[] for _ in ranks] for name in (PLAIN, MIXED, CALL)}
    calls = 1 if options.quick else 8  # the same number on every rank: steps wait for one another
    for _ in range(options.rounds):
        for i, runs in enumerate(builds):
            for name, found in samples.items():
                dist.barrier()
                if runs is not None:
                    seconds(runs[name], 2, device)
                    found[i].append(1000 * seconds(runs[name], calls, device))
    dist.barrier()
    if rank == 0:
        (Path(folder) / "samples.json").write_text(json.dumps(samples))
    dist.destroy_process_group()


# -- the record ---------------------------------------------------------------------------------------


def slope(values: Sequence[int], times: Sequence[float]) -> float:
    """Return the slope of the least-squares line through log(time) over log(value)."""
    x, y = ([math.log(v) for v in numbers] for numbers in (values, times))
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return products / sum((a - x_mean) ** 2 for a in x)


def summarize(axis: str, values: Sequence[int], samples: Samples) -> tuple[list[Any], list[Any]]:
    """Return the rows of an axis, one per curve and value, and one line per curve with its slope."""
    rows, lines = [], []
    slopes = {
        name: [slope(values, times) for times in zip(*by_value, strict=True)]
        for name, by_value in samples.items()
    }
    for name, by_value in samples.items():
        for i, times in enumerate(by_value):
            low, median, high = quartiles(times)
            ratio = quartiles([a / b for a, b in zip(times, samples[PLAIN][i], strict=True)])[1]
            rows.append(
                {
                    "axis": axis,
                    "value": values[i],
                    "name": name,
                    "median_ms": median,
                    "iqr_ms": high - low,
                    "ratio_to_plain": ratio,
                    "samples_ms": times,
                }
            )
        low, median, high = quartiles([a - b for a, b in zip(slopes[name], slopes[PLAIN], strict=True)])
        lines.append(
            {
                "axis": axis,
                "name": name,
                "slope": quartiles(slopes[name])[1],
                "growth_ms": quartiles([b - a for a, b in zip(by_value[0], by_value[-1], strict=True)])[1],
                "minus_plain": median,
                "quartiles_of_minus_plain": [low, high],
                "steeper_than_plain": low > 0,
            }
        )
    return rows, lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=9)
    parser.add_argument("--block-ms", type=float, default=60.0, help="about how long one sample takes (60)")
    parser.add_argument("--axis", choices=tuple(AXES), action="append", help="only this axis (all)")
    options = parser.parse_args(arguments)
    base, axes = Point(), AXES
    if options.quick:
        base, axes, options.rounds, options.block_ms = QUICK_BASE, QUICK_AXES, 2, 0.0
    device = prepare(options)

    rows: list[dict[str, Any]] = []
    slopes: list[dict[str, Any]] = []
    for axis in options.axis or axes:
        values = axes[axis]
        if axis == "ranks":
            samples = measure_ranks(values, base, options)
        else:
            samples = measure_axis([base._replace(**{axis: v}) for v in values], options, device)
        found, lines = summarize(axis, values, samples)
        rows, slopes = rows + found, slopes + lines
        print_table(found, ["axis", "value", "name", "median_ms", "iqr_ms", "ratio_to_plain"])
        print_table(lines, ["axis", "name", "slope", "minus_plain", "growth_ms", "steeper_than_plain"])
    steeper = [f"{line['name']} over {line['axis']}" for line in slopes if line["steeper_than_plain"]]
    print(f"steeper than the plain step: {', '.join(steeper) or 'none'}")
    if options.out is not None:
        record = {
            "benchmark": "scaling",
            **environment(gpu=options.device == "cuda"),
            "settings": {
                "base": base._asdict(),
                "axes": {axis: list(axes[axis]) for axis in options.axis or axes},
                "network": f"three convolutions of stride 2 up to {WIDTH} channels, a linear layer",
                "dtype": "float32",
                "device": options.device,
                "threads_per_rank": 1,
                "block_ms": options.block_ms,
                "quick": options.quick,
            },
            "seed": options.seed,
            "n": options.rounds,
            "rows": rows,
            "slopes": slopes,
            "goal": {"steeper_than_plain": steeper, "reached": not steeper},
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
