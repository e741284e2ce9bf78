"""Make a comparison from its settings to its page, or its page again from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from recursivemix.data.atomic_write import write_json, write_text
from recursivemix.data.printable import counted
from recursivemix.report.comparison_page import build_page
from recursivemix.tasks.memorization import measured_near
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.devices import precision_notes
from recursivemix.training.environment import environment
from recursivemix.training.folder_lock import locked_folder
from recursivemix.training.plain_file import named_errors, read_json, read_yaml

from .collect import collect, config_values
from .execute import RECORD, check_unchanged, is_finished, run_job
from .grid import Job, Run, jobs_of
from .on_ray import run_on_ray
from .pace import Pace, epochs_in_budget, measure, total_seconds
from .pictures import make_pictures
from .processes import run_all
from .records import COMPARISON, Comparison, read_comparison
from .settings import CompareSettings, Executor

SETTINGS, PAGE = "comparison.yaml", "page.html"
WHERE = ("command", "date", "commit", "versions", "hardware")
"""What `environment` returns."""


def with_epochs(settings: CompareSettings) -> tuple[CompareSettings, list[Pace]]:
    """Return settings with their number of epochs, and what was measured to choose it.

    The epochs are those of ``--epochs``, else of the comparison in ``--out``, else as ``--budget`` allows,
    else the task's default.
    """
    if settings.given_epochs is not None:
        return settings, []
    file = settings.out / SETTINGS
    if file.is_file():
        before = read_settings(settings.out)
        return replace(settings, epochs=before.given_epochs, budget=None), []
    if settings.budget is None:
        epochs = settings.run_settings(settings.labels[0], settings.first_seed)["epochs"]
        return replace(settings, epochs=epochs), []
    paces = measure(settings)
    return replace(settings, epochs=epochs_in_budget(settings, paces), budget=None), paces


def compare(settings: CompareSettings, say: Callable[[str], None]) -> tuple[Comparison, dict[str, str]]:
    """Make the runs that are not finished, and write records, pictures and page.

    Args:
        settings: of the comparison, checked by `check_grid`.
        say: called with a line for each run that ends.

    Returns:
        The content of ``comparison.json``, and the error message of every failed job by its name.

    Raises:
        ValueError: settings that cannot be used, or that differ from those of the folder's runs; or no run
            was finished.
        GridStoppedError: Ctrl-C or SIGTERM; the same command resumes.
    """
    for package in ("jinja2", "plotly", *(() if settings.is_dense else ("pytorch_grad_cam",))):
        if find_spec(package) is None:  # before the runs, not after
            raise ValueError(f"a comparison needs {package}: pip install 'recursivemix[report]'")
    out, jobs = settings.out, jobs_of(settings)
    for job in jobs:
        for run in job.runs:
            check_unchanged(run, out)
    with written_folder(out / SETTINGS, config_values(settings)):
        where = environment(gpu=True)
        open_jobs = [job for job in jobs if not all(is_finished(run, out) for run in job.runs)]
        if len(open_jobs) < len(jobs):
            say(f"{len(jobs) - len(open_jobs)} of {len(jobs)} jobs are finished already")
        numbers = count(1)

        def done(job: Job, problem: str | None) -> None:
            place = f"{next(numbers)} of {len(open_jobs)}"
            for line in [problem] if problem else [result_line(run, out) for run in job.runs if run.label]:
                say(f"{place}: {line}")

        problems = run_jobs(open_jobs, out, settings.executor, settings.address, settings.jobs, done)
        if 0 < len(problems) == len(jobs):
            raise ValueError(f"all runs failed: {next(iter(problems.values()))}")
        comparison = collect(settings, out, where)
        write_json(out / COMPARISON, comparison)
        make_pictures(settings, out)
        write_text(out / PAGE, build_page(comparison, out / "pictures"))
        return comparison, problems


@contextmanager
def written_folder(file: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Lock the folder of a file, and write settings into the file as YAML.

    Raises:
        ValueError: another process uses the folder, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(file.parent))
            write_text(file, yaml.safe_dump(settings, sort_keys=False))
        except OSError as error:
            raise ValueError(f"cannot write the folder {file.parent} (--out): {error}") from error
        yield


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    executor: Executor,
    address: str | None,
    parallel: int,
    done: Callable[[Job, str | None], None],
) -> dict[str, str]:
    """Run jobs on this machine or on a Ray cluster; see `run_all` and `run_on_ray`."""
    if executor == "ray":
        return run_on_ray(jobs, out, address, parallel, done)
    return run_all(jobs, lambda job, threads, start: run_job(job, out, threads, start), parallel, done)


def report(folder: Path, baseline: str | None = None) -> Comparison:
    """Write the page of a comparison from its records, without data or checkpoints.

    Where the folder has runs, they are collected again into ``comparison.json``: also those of a comparison
    that is still running.

    Args:
        folder: of the comparison.
        baseline: compare with this method instead of the recorded one, in the page and the tables alone.

    Raises:
        ValueError: not the folder of a comparison, or no such method.
    """
    file, runs = folder / COMPARISON, sorted(folder.glob(f"runs/*/{RECORD}"))
    if (folder / SETTINGS).is_file() and (runs or not file.is_file()):
        source = next((path for path in (file, *runs) if path.is_file()), None)
        recorded = {} if source is None else read_json(source)
        where = {name: recorded.get(name) for name in WHERE}
        settings = read_settings(folder)
        with named_errors(folder):
            write_json(file, collect(settings, folder, where))
    comparison = read_comparison(folder, baseline)
    with named_errors(file):
        write_text(folder / PAGE, build_page(comparison, folder / "pictures"))
    return comparison


def read_settings(folder: Path) -> CompareSettings:
    """Read the settings of a comparison from its folder, also of an earlier version.

    Raises:
        ValueError: settings that this version does not know.
    """
    file = folder / SETTINGS
    values = read_yaml(file)
    with named_errors(file):
        if values.get("data") is not None:
            values["data"] = Path(values["data"])
        return CompareSettings(**(values | {"out": folder}))


def result_line(run: Run, out: Path) -> str:
    """Describe a finished run in one line."""
    record = read_json(out / run.folder / RECORD)
    score = record.get("score_last", record.get("acc1_last"))
    result = "no score" if score is None else f"{score:.2f} %"
    return f"{run.name}: {result} at the last epoch, {record['seconds']:.0f} s"


def plan_lines(settings: CompareSettings, paces: list[Pace]) -> list[str]:
    """Return the runs and their estimated time, for ``--dry-run``."""
    assert settings.given_epochs is not None
    epochs = settings.given_epochs
    lines = [
        f"{pace.label}: {counted(settings.seeds, 'seed')} x {counted(epochs, 'epoch')}, "
        f"{pace.epoch:.1f} s per epoch, {duration(pace.run(epochs))} per run"
        for pace in paces
    ]
    total = total_seconds(settings, paces, epochs)
    lines.append(f"in total about {duration(total)}, {settings.jobs} at a time, into {settings.out}")
    first = settings.standalone_run(settings.labels[0], settings.first_seed)
    lines += precision_notes(first.precision, first.device)
    if settings.task == "classification" and "none" in settings.labels:
        run = settings.standalone_run("none", settings.first_seed)
        assert isinstance(run, ClassificationSettings)
        lines.append(
            "mixing helps networks that memorize their training images: look at the training accuracy of "
            "one run of none before you run all"
        )
        lines += measured_near(paces[0].images_per_class, run.fine_tunes)
    return lines


def duration(seconds: float) -> str:
    """Format a time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
