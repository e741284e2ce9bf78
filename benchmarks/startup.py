"""Time from the start of Python to the end of short commands, and to the end of imports.

    python benchmarks/startup.py --out results/startup.json

Every row is a process of its own. Rows take turns within a round; a ratio is the median over rounds of one
row's time against the time of ``import torch`` in the same round. CPU seconds are the user and system time
of the process: they vary less than wall-clock seconds on a busy machine. A first round, which fills the
caches of bytecode and files, is not counted.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from recursivemix.data.atomic_write import write_json
from recursivemix.training.environment import environment
from timing import add_options, paired_ratio, prepare, print_table, quartiles

CLI = ("-m", "recursivemix.cli")
REFERENCE = "import torch"
ROWS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "recursivemix --help": (*CLI, "--help"),
    "recursivemix --version": (*CLI, "--version"),
    "recursivemix recipes": (*CLI, "recipes"),
    "recursivemix fit --help": (*CLI, "fit", "--help"),
    "recursivemix fit --help-all": (*CLI, "fit", "--help-all"),
    REFERENCE: ("-c", "import torch"),
    "import recursivemix": ("-c", "import recursivemix"),
    "import its names": ("-c", "from recursivemix import RecursiveMix, RegionModel"),
}
"""Arguments of Python by the name of the row."""
GOALS = {
    "recursivemix --help": ("median_s", 0.5),
    "recursivemix --version": ("median_s", 0.5),
    "recursivemix recipes": ("median_s", 0.5),
    "recursivemix fit --help": ("median_s", 2.5),
    "import its names": ("ratio_to_torch", 1.15),
}
"""The number of a row that has a limit, and the limit."""


def run(words: Sequence[str]) -> tuple[float, float]:
    """Run Python with arguments; return wall-clock and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the times of every row, one per round."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ROWS}
    for turn in range(rounds + 1):
        for name, words in ROWS.items():
            times = run(words)
            if turn:
                samples[name].append(times)
    return samples


def rows_of(samples: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Return medians, spread and ratios of every row."""
    reference = [wall for wall, _ in samples[REFERENCE]]
    rows = []
    for name, times in samples.items():
        wall, cpu = [wall for wall, _ in times], [cpu for _, cpu in times]
        low, median, high = quartiles(wall)
        rows.append(
            {
                "name": name,
                "median_s": median,
                "iqr_s": high - low,
                "median_cpu_s": quartiles(cpu)[1],
                "ratio_to_torch": paired_ratio(wall, reference),
                "samples_s": wall,
                "samples_cpu_s": cpu,
            }
        )
    return rows


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each limit with the value that was measured."""
    named = {row["name"]: row for row in rows}
    return [
        {
            "name": name,
            "value_of": column,
            "value": named[name][column],
            "at_most": limit,
            "reached": named[name][column] <= limit,
        }
        for name, (column, limit) in GOALS.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and the goals, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=9)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    prepare(options)
    where, load = environment(gpu=False), os.getloadavg()
    rows = rows_of(measure(options.rounds))
    print_table(rows, ["name", "median_s", "iqr_s", "median_cpu_s", "ratio_to_torch"])
    met = goals(rows)
    for goal in met:
        verdict = "reached" if goal["reached"] else "not reached"
        name = f"{goal['value_of']} of {goal['name']}"
        print(f"{name}: {goal['value']:.3f}, at most {goal['at_most']}: {verdict}")
    if options.out is not None:
        record = {
            "benchmark": "startup",
            **where,
            "settings": {"quick": options.quick, "load_before": load},
            "seed": options.seed,
            "n": options.rounds,
            "rows": rows,
            "goals": met,
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
