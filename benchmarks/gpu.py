"""Parts of benchmarks/gpu.sh: look for the device, unpack CIFAR-100, throughput of the trainer, records.

    python benchmarks/gpu.py check --device cuda
    python benchmarks/gpu.py unpack --zips DIR --out DIR
    python benchmarks/gpu.py throughput --data DIR --out results/gpu/throughput.json
    python benchmarks/gpu.py record RUN --out results/gpu/cifar100-resnet18.json

Each says in one line what is wrong, with exit code 2 for what its user can mend.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECIPE = "cifar100-resnet18"
ZIPS = ("cifar100-part1.zip", "cifar100-part2.zip")
UNPACKED = ".unpacked"
"""Stands in the folder when all of it is there."""


def refuse(message: str) -> None:
    """End with one line and exit code 2."""
    print(f"gpu.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def check(options: argparse.Namespace) -> None:
    """Say what the device is, or that there is none."""
    import torch

    if options.device == "cpu":
        print(f"torch {torch.__version__}; CPU, a rehearsal that measures nothing")
        return
    if not torch.cuda.is_available():
        refuse(
            f"torch {torch.__version__} sees no GPU on this machine; to rehearse without one: "
            f"GPU_SH_DEVICE=cpu QUICK=1 benchmarks/gpu.sh"
        )
    print(f"torch {torch.__version__}; {torch.cuda.get_device_name()}")


def unpack(options: argparse.Namespace) -> None:
    """Both parts into one folder; what is there already is left alone."""
    if (options.out / UNPACKED).exists():
        return
    for name in ZIPS:
        if not (options.zips / name).is_file():
            refuse(f"there is no {options.zips / name}; CIFAR100_ZIPS names the folder of both parts")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ZIPS:
        with zipfile.ZipFile(options.zips / name) as archive:
            for member in archive.infolist():
                member.filename = member.filename.removeprefix("cifar100/")
                if member.filename:
                    archive.extract(member, options.out)
    (options.out / UNPACKED).touch()


def throughput(options: argparse.Namespace) -> None:
    """Images per second of the recipe through the trainer, after a first epoch that warms it up."""
    import torch

    from recursivemix.data.atomic_write import write_json
    from recursivemix.recipes import read_recipe
    from recursivemix.training.environment import environment
    from timing import print_table, quartiles
    from trainer_speed import trainer_speed

    recipe = read_recipe(RECIPE)
    batch_size = 8 if options.quick else recipe.settings["batch_size"]
    images = sum(path.is_file() for path in (options.data / "train").glob("*/*"))
    steps = math.ceil(images / batch_size)
    if steps < 3:
        refuse(f"{options.data} has {steps} steps of {batch_size} images an epoch; at least 3 are needed")
    untimed = min(20, steps // 2)
    windows = [(epoch * steps + untimed, (epoch + 1) * steps) for epoch in range(1, options.epochs)]
    # A rehearsal does not compile: on a CPU that takes a minute, and shows nothing of a GPU.
    variants = [("none", False), ("recursivemix", False)] + [("recursivemix", True)] * (not options.quick)
    rows: list[dict[str, Any]] = []
    held = None
    for mixer, compiled in variants:
        config: dict[str, Any] = recipe.settings_with(mixer) | {
            "data": options.data,
            "device": "gpu" if options.device == "cuda" else "cpu",
            "batch_size": batch_size,
            "workers": options.workers,
            "compile": compiled,
        }
        row: dict[str, Any] = {"mixer": mixer, "compile": compiled}
        try:
            speed = trainer_speed(config, windows, held)
        except Exception as error:  # what compiling may raise is anybody's guess; the others still count
            if not compiled:
                raise
            row |= {
                "images_per_second": None,
                "error": (str(error).splitlines() or [type(error).__name__])[0],
            }
        else:
            held = speed.data
            row |= {
                "images_per_second": quartiles(speed.images_per_second)[1],
                "samples": speed.images_per_second,
                "precision": speed.precision,
            }
        rows.append(row)
        print(
            f"mixer {mixer}, compile {compiled}: {row['images_per_second'] or row.get('error')}", flush=True
        )
        # After every row: what comes later may run out of time.
        record = {
            "benchmark": "throughput",
            **environment(gpu=options.device == "cuda"),
            "settings": {
                "recipe": RECIPE,
                "batch_size": batch_size,
                "images": images,
                "epochs": options.epochs,
                "workers": options.workers,
                "device": options.device,
                "quick": options.quick,
            },
            "seed": config.get("seed", 0),
            "n": len(windows),
            "rows": rows,
        }
        write_json(options.out, with_commit(record))
        torch.compiler.reset()
    print_table(rows, ["mixer", "compile", "images_per_second"])


def faster_compiled(options: argparse.Namespace) -> None:
    """Print --compile=true where a throughput record says that compiling works, and pays."""
    try:
        rows = json.loads(options.throughput.read_text())["rows"]
    except OSError:
        rows = []
    speeds = {row["compile"]: row["images_per_second"] for row in rows if row["mixer"] == "recursivemix"}
    if True not in speeds or (speeds[True] or 0) > speeds[False]:
        print("--compile=true")


def record(options: argparse.Namespace) -> None:
    """A run's record, or of one that is not finished what its CSV says so far."""
    from recursivemix.data.atomic_write import write_json
    from recursivemix.training.environment import environment

    if (options.run / "record.json").exists():
        content = json.loads((options.run / "record.json").read_text()) | {"finished": True}
    else:
        try:
            rows = list(csv.DictReader((options.run / "metrics.csv").open()))
        except OSError:
            refuse(f"{options.run} has no finished epoch to tell of")
        epochs = [{name: float(value) for name, value in row.items() if value} for row in rows]
        content = {
            "kind": "fit",
            **environment(gpu=options.device == "cuda"),
            "finished": False,
            "recipe": RECIPE,
            "epochs_done": len(epochs),
            "epochs": epochs,
        }
    write_json(options.out, with_commit(content))
    last = content["epochs"][-1]
    state = "finished" if content["finished"] else "NOT finished"
    accuracy = f", accuracy {last['acc1']:.2f} %" if "acc1" in last else ""
    print(f"{RECIPE}: {state}, {len(content['epochs'])} epochs, {last['seconds']:.0f} s{accuracy}")


def with_commit(content: dict[str, Any]) -> dict[str, Any]:
    """A copy without .git can't know its commit; whoever made the copy says it in COMMIT."""
    return content | {"commit": content["commit"] or os.environ.get("COMMIT")}


def stamp(options: argparse.Namespace) -> None:
    """Give a record that another script wrote the commit of the copy."""
    from recursivemix.data.atomic_write import write_json

    write_json(options.file, with_commit(json.loads(options.file.read_text())))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)

    def part(name: str, run: Any) -> argparse.ArgumentParser:
        own = parts.add_parser(name, help=run.__doc__)
        own.set_defaults(run_part=run)
        own.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
        return own

    part("check", check)
    own = part("unpack", unpack)
    own.add_argument("--zips", type=Path, required=True)
    own.add_argument("--out", type=Path, required=True)
    own = part("throughput", throughput)
    own.add_argument("--data", type=Path, required=True)
    own.add_argument("--out", type=Path, required=True)
    own.add_argument("--epochs", type=int, default=3, help="the first is not timed (3)")
    own.add_argument("--workers", type=int, default=2, help="processes that read the images once (2)")
    own.add_argument("--quick", action="store_true", help="a rehearsal; no measurement")
    own = part("compile", faster_compiled)
    own.add_argument("throughput", type=Path)
    own = part("record", record)
    own.add_argument("run", type=Path)
    own.add_argument("--out", type=Path, required=True)
    own = part("stamp", stamp)
    own.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    if getattr(options, "epochs", 2) < 2:
        parser.error("--epochs must be at least 2: the first is not timed")
    options.run_part(options)


if __name__ == "__main__":
    main()
