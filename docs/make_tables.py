"""Writes the tables of the README from the records in ``results/``.

    python docs/make_tables.py           # rewrite
    python docs/make_tables.py --check   # fail if a table is not what the records say

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


def read(path: Path) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def cifar10_table() -> str:
    """Last-epoch accuracy by mixer, over the seeds there are."""
    records = [read(path) for path in sorted((RESULTS / "cifar10").glob("*.json"))]
    if not records:
        return "No run is recorded yet."
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record["config"]["mixer"]].append(record)
    first = records[0]
    data, config = first["data"], first["config"]
    lines = [
        f"**CIFAR-10, {data['train_images']:,} training images** (compare the rows with one another), "
        f"{config['model']}, {config['epochs']} epochs, batch {config['batch_size']}, equal settings; "
        f"accuracy on all {data['evaluation_images']:,} test images.",
        "",
        "| mixer | last epoch, mean ± sd | each seed | best epoch, mean | NLL, last epoch | images/s | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mixer in sorted(groups, key=list(MIXER_ORDER).index):
        runs = sorted(groups[mixer], key=lambda run: run["seed"])
        last = [run["acc1_last"] for run in runs]
        spread = f" ± {stdev(last):.2f}" if len(last) > 1 else ""
        nll = mean(run["epochs"][-1]["val_loss"] for run in runs)
        lines.append(
            f"| {mixer} | {mean(last):.2f}{spread} | {' / '.join(f'{value:.2f}' for value in last)} | "
            f"{mean(run['acc1_best'] for run in runs):.2f} | {nll:.3f} | "
            f"{mean(run['images_per_second'] for run in runs):.0f} | {len(runs)} |"
        )
    return "\n".join([*lines, "", source(first, "results/cifar10/")])


MIXER_ORDER = ("none", "mixup", "cutmix", "resizemix", "recursivemix")


def source(record: dict[str, Any], where: str) -> str:
    """One line that says what a table was measured on."""
    hardware = record["hardware"]
    machine = hardware.get("gpu") or f"{hardware['processor']}, {hardware['threads']} threads"
    return (
        f"*{machine}, torch {record['versions']['torch']}, commit {record['commit'][:8]}; records: {where}*"
    )


TABLES = {"cifar10": cifar10_table}


def filled(text: str) -> str:
    """A page with every table written anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end table -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end table -->", fill, text, flags=re.DOTALL)


def main() -> int:
    """Rewrite the README, or with --check say whether it is up to date."""
    page = ROOT / "README.md"
    old = page.read_text()
    new = filled(old)
    if "--check" in sys.argv:
        print("up to date" if new == old else "README.md differs from results/: run docs/make_tables.py")
        return int(new != old)
    page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
