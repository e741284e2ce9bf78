"""Whether memory grows over a long run: 20,000 steps of a tiny network with RecursiveMix.

    python benchmarks/memory.py --out results/memory.json

The resident memory of the process is read every 200 steps. The record holds the slope of a straight line
through the readings after the first fifth, with its standard error: within two of these it is noise. The
noise of neighbouring readings is correlated, so readings are averaged in blocks before the fit.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy.stats import linregress
from torch import nn

from recursivemix import RecursiveMix, RegionModel
from recursivemix.data.atomic_write import write_json
from recursivemix.training.environment import environment
from timing import print_table

CLASSES, BATCH, SIZE = 10, 8, 8
EVERY = 200
"""Steps between two readings, unless quick."""
BLOCKS = 16


def resident_bytes() -> int:
    """Bytes of this process in physical memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def network() -> nn.Module:
    """A classifier of two layers."""
    features = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    return nn.Sequential(features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def run(steps: int, every: int, seed: int) -> list[int]:
    """Train for this many steps on random batches; return a reading after each ``every`` steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = RegionModel(network(), image_size=(SIZE, SIZE))
    mixer = RecursiveMix(CLASSES, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    readings = []
    for step in range(1, steps + 1):
        images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        batch = mixer(images, labels)
        logits, region_logits = model(batch.images, batch.boxes)
        loss = mixer.loss(logits, batch, region_logits)
        mixer.remember(batch, logits)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            gc.collect()
            readings.append(resident_bytes())
    return readings


def slope(readings: Sequence[int], every: int) -> dict[str, float]:
    """Bytes per 1,000 steps after the first fifth of the readings, with the standard error."""
    later = torch.tensor(readings[len(readings) // 5 :], dtype=torch.float64)
    length = max(len(later) // BLOCKS, 1)
    means = later[: len(later) // length * length].view(-1, length).mean(1)
    fit = linregress(range(len(means)), means.tolist())
    scale = 1000 / (every * length)
    return {
        "bytes_per_1000_steps": scale * float(fit.slope),
        "standard_error": scale * float(fit.stderr) if len(set(means.tolist())) > 1 else 0.0,
        "last_minus_first_bytes": float(means[-1] - means[0]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the JSON record to this file")
    parser.add_argument("--steps", type=int, default=20_000, help="training steps (20,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    options = parser.parse_args(arguments)
    every = 10 if options.quick else EVERY
    steps = 5 * every if options.quick else options.steps
    if steps < 5 * every:
        raise SystemExit(f"--steps must be at least {5 * every}, got {steps}")
    torch.set_num_threads(options.threads)
    readings = run(steps, every, options.seed)
    row = {"name": "recursivemix", "steps": steps, **slope(readings, every)}
    print_table([row], list(row))
    if options.out is not None:
        settings = {"quick": options.quick, "batch": [BATCH, 3, SIZE, SIZE], "num_classes": CLASSES}
        record = {
            "benchmark": "memory",
            **environment(gpu=False),
            "settings": settings | {"steps_between_readings": every},
            "seed": options.seed,
            "rows": [row],
            "resident_bytes": readings,
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
