"""A comparison from its settings to its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from recursivemix.data.images import ImageData
from recursivemix.training.atomic_write import write_json, write_text
from recursivemix.training.environment import environment

from .collect import collect, config_values
from .estimate import Pace, epochs_in_budget, grid_seconds, measure
from .execute import EVALUATION, RECORD, check_same, is_finished, run_locally
from .grid import CompareConfig, Job, jobs_of
from .on_ray import run_on_ray
from .page import build_page
from .pictures import make_pictures

DEFAULT_EPOCHS = 30
SETTINGS, COMPARISON, PAGE = "comparison.yaml", "comparison.json", "page.html"


def with_epochs(config: CompareConfig) -> tuple[CompareConfig, list[Pace]]:
    """The settings with their number of epochs: as told, as begun with, or as the budget allows."""
    if config.epochs is not None:
        return config, []
    before = config.out / SETTINGS
    if before.is_file():
        epochs = yaml.safe_load(before.read_text())["epochs"]
        return replace(config, epochs=epochs, budget=None), []
    if config.budget is None:
        return replace(config, epochs=DEFAULT_EPOCHS), []
    paces = measure(config)
    return replace(config, epochs=epochs_in_budget(config, paces), budget=None), paces


def compare(
    config: CompareConfig, data: ImageData, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run what is not finished yet, and write the page.

    Args:
        config: the settings, with their number of epochs.
        data: of seed 0, as `open_grid` gives it.
        say: is given a line for each run that ends.

    Returns:
        What ``comparison.json`` holds, and the problem of every run that failed, by its name.

    Raises:
        ValueError: settings that can't be used, or that are not those of the folder's runs.
        GridStoppedError: Ctrl-C or SIGTERM; the same command goes on.
    """
    for package in ("jinja2", "plotly", "pytorch_grad_cam"):
        if find_spec(package) is None:  # known now, and not after the runs
            raise ValueError(f"a comparison needs {package}: pip install 'recursivemix[report]'")
    runs = config.out / "runs"
    jobs = jobs_of(config)
    for job in jobs:
        check_same(job, runs / job.name)
    where = environment(gpu=True)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        write_text(config.out / SETTINGS, yaml.safe_dump(config_values(config), sort_keys=False))
    except OSError as error:
        raise ValueError(f"cannot write the folder {config.out} (--out): {error}") from error
    open_jobs = [job for job in jobs if not is_finished(runs / job.name)]
    if len(open_jobs) < len(jobs):
        say(f"{len(jobs) - len(open_jobs)} of {len(jobs)} runs are finished already")
    ended = 0

    def done(job: Job, problem: str | None) -> None:
        nonlocal ended
        ended += 1
        say(f"{ended} of {len(open_jobs)}: {problem or result_line(runs / job.name, job)}")

    if config.executor == "ray":
        problems = run_on_ray(open_jobs, runs, config.address, config.jobs, done)
    else:
        problems = run_locally(open_jobs, runs, config.jobs, done)
    return finish(config, data, where), problems


def finish(config: CompareConfig, data: ImageData, where: dict[str, Any]) -> dict[str, Any]:
    """Write `comparison.json`, the pictures and the page, of whatever is finished."""
    comparison = collect(config, config.out, where)
    write_json(config.out / COMPARISON, comparison)
    make_pictures(config, data, config.out)
    return rebuild(config.out)


def rebuild(folder: Path) -> dict[str, Any]:
    """Write the page anew from the folder's records alone; gives what `comparison.json` holds.

    Raises:
        ValueError: a folder without a comparison.
    """
    file = folder / COMPARISON
    if not file.is_file():
        raise ValueError(f"{folder} holds no {COMPARISON}: was it made by recursivemix compare?")
    comparison: dict[str, Any] = json.loads(file.read_text())
    write_text(folder / PAGE, build_page(comparison, folder / "pictures"))
    return comparison


def result_line(folder: Path, job: Job) -> str:
    """A finished run in a line."""
    record = json.loads((folder / RECORD).read_text())
    evaluation = json.loads((folder / EVALUATION).read_text())
    return (
        f"{job.name}: {record['acc1_last']:.2f} % at the last epoch, NLL {evaluation['nll']:.3f}, "
        f"{record['seconds']:.0f} s"
    )


def plan_lines(config: CompareConfig, paces: list[Pace]) -> list[str]:
    """The grid and its estimated time, for ``--dry-run``."""
    epochs = config.epochs or DEFAULT_EPOCHS
    lines = [
        f"{pace.label}: {config.seeds} seeds x {epochs} epochs, {pace.epoch:.1f} s an epoch, "
        f"{minutes(pace.run(epochs))} a run"
        for pace in paces
    ]
    total = grid_seconds(config, paces, epochs)
    return [*lines, f"altogether about {minutes(total)} with {config.jobs} at a time, into {config.out}"]


def minutes(seconds: float) -> str:
    """Seconds in the units one says them in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
