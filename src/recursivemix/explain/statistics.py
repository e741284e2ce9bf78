"""Measure the mixing process and write the numbers as a record, a page or a picture.

Torch is imported when the measurement starts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recursivemix.report.names import Theme

from .out_file import check_out

if TYPE_CHECKING:
    from .process import Statistics

FORMATS = (".json", ".html", ".png")
RANGES = {"size": (8, 1024), "batches": (1, 10**6), "batch_size": (1, 128)}


def statistics(
    mixer: str = "recursivemix",
    mixer_options: dict[str, Any] | None = None,
    size: int = 224,
    batches: int = 2000,
    batch_size: int = 8,
    seed: int = 0,
    model: str = "resnet20",
    theme: Theme = "light",
    out: Path | None = None,
) -> tuple[Statistics, dict[str, Any]]:
    """Measure the mixing process, without data or training.

    Args:
        mixer: Mixing method.
        mixer_options: Settings of the mixer, such as --mixer-options.max_area 0.3.
        size: Pixels per side.
        batches: Number of batches.
        batch_size: Images per batch; methods that mix within a batch draw partners among them.
        seed: Seed of the mixing.
        model: Network for a method that works inside one.
        theme: light or dark, for PNG; a page follows the reader's setting.
        out: File to write: .html (a page with plots and tables), .png or .json.

    Returns:
        The measurements, and the record of how they were made.

    Raises:
        ValueError: a mixer, options or a file that cannot be used.
    """
    from recursivemix.training.environment import environment

    from .closed_form import closed_form
    from .process import measure_process
    from .statistics_plots import write_statistics

    if out is not None:
        check_out(out, FORMATS)
    for name, value in (("size", size), ("batches", batches), ("batch_size", batch_size)):
        least, most = RANGES[name]
        if not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} must be in {least}..{most}, got {value}")
    settings = {
        "mixer": mixer,
        "mixer_options": mixer_options or {},
        "size": size,
        "batches": batches,
        "batch_size": batch_size,
        "seed": seed,
    }
    start = time.perf_counter()
    measured = measure_process(mixer, (size, size), batches, batch_size, seed, model, mixer_options)
    seconds = round(time.perf_counter() - start, 2)
    exact = closed_form(mixer, mixer_options or {}, size)
    record = {"kind": "statistics"} | environment(gpu=False) | settings | measured.as_dict()
    record |= {"closed_form": exact, "seconds": seconds}
    if out is not None:
        write_statistics(measured, record, theme, out)
    return measured, record
