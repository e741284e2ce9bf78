"""What the benchmarks share: options, timing in turn, robust summaries, a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from recursivemix.training.devices import has_bf16


def add_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The options that every benchmark takes."""
    parser.add_argument("--out", type=Path, help="write the JSON record to this file")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"samples a row ({rounds})")
    parser.add_argument("--threads", type=int, help="CPU threads of torch (torch's default)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; no measurement"
    )


def prepare(options: argparse.Namespace) -> torch.device:
    """Check and apply the options of `add_options`; returns the device."""
    if options.rounds < 1:
        raise SystemExit(f"--rounds must be at least 1, got {options.rounds}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no CUDA device here")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)  # the stream of the peers that draw from the global one
    return torch.device(options.device)


def precision_of(device: torch.device) -> Literal["bf16", "32"]:
    """bfloat16 where the hardware multiplies in it, else float32."""
    return "bf16" if has_bf16("gpu" if device.type == "cuda" else "cpu") else "32"


def autocast(device: torch.device) -> torch.autocast:
    """Autocast in `precision_of` the device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_of(device) == "bf16")


def dtype_name(device: torch.device) -> str:
    """`precision_of` the device in words."""
    return "bfloat16 autocast" if precision_of(device) == "bf16" else "float32"


def seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Mean seconds of one of several calls in a row, the device's work included."""
    synchronize(device)
    start = perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (perf_counter() - start) / calls


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """25 %, 50 % and 75 % of the samples, linearly interpolated."""
    points = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.tensor(samples, dtype=torch.float64).quantile(points).tolist()
    return low, middle, high


def paired_ratio(samples: Sequence[float], reference: Sequence[float]) -> float:
    """Median over rounds of one row's sample against the reference's of the same round."""
    return quartiles([a / b for a, b in zip(samples, reference, strict=True)])[1]


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as aligned text: numbers with three decimals to the right, None as a dash."""
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    numeric = [isinstance(rows[0][column], (int, float)) for column in columns]
    for line in [list(columns), *cells]:
        aligned = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(aligned).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
