"""Search settings, confirm the best on fresh seeds, and write the results."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import yaml

from recursivemix.compare.compare import compare, duration, written_folder
from recursivemix.compare.grid import check_grid
from recursivemix.compare.pace import Pace, measure_run, threads_of
from recursivemix.compare.settings import budget_seconds, task_settings
from recursivemix.data.atomic_write import write_json, write_text
from recursivemix.data.open import open_images
from recursivemix.data.printable import counted
from recursivemix.report.tuning_page import build_tuning_page
from recursivemix.report.words import listed
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.environment import environment
from recursivemix.training.plain_file import read_yaml

from .confirmation import differences, methods_of, verdict
from .search import Rungs, Search, open_study, rungs_of, trial_records, winner_of
from .settings import FOUND, TuneSettings
from .space import Range, default_params, method_of, space_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SETTINGS, BEST, RECORD, PAGE = "tune.yaml", "best.yaml", "record.json", "page.html"
BRACKETS = 3
"""Brackets that should fit into the budget if it chooses the epochs."""
MAY_CHANGE = ("budget", "trials", "seeds", "executor", "jobs", "address", "out", "trust_config")
"""Settings that may differ when a search is resumed."""


def tune(settings: TuneSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Search until the budget is used up, confirm, and write the results.

    Args:
        settings: of the search.
        say: called with lines about the progress.

    Returns:
        The content of ``record.json``.

    Raises:
        ValueError: settings that cannot be used, or that differ from those of the folder's search.
        GridStoppedError: Ctrl-C or SIGTERM; the same search continues.
        RunError: all runs of a rung failed.
    """
    for package, extra in (("optuna", "tune"), ("jinja2", "report"), ("plotly", "report"),
                           ("pytorch_grad_cam", "report")):  # fmt: skip
        if find_spec(package) is None:  # before the runs, not after
            raise ValueError(f"recursivemix tune needs {package}: pip install 'recursivemix[{extra}]'")
    space = space_of(settings)
    settings = with_known_epochs(settings)
    check_runs(settings, space)
    settings, pace = with_epochs(settings, space)
    assert settings.epochs is not None
    rungs = rungs_of(settings.epochs, settings)
    check_shortest(settings, space, rungs)
    say(plan_line(settings, rungs, pace))
    where = environment(gpu=True)
    where["versions"]["optuna"] = version("optuna")
    with written_folder(settings.out / SETTINGS, kept_settings(settings)):
        return finish(settings, space, rungs, where, say)


def finish(
    settings: TuneSettings,
    space: dict[str, Range],
    rungs: Rungs,
    where: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Search, confirm and write the results; the page and the record also before the confirmation."""
    search = Search(settings, space, rungs, open_study(settings.out), say)
    search.run()
    winner = winner_of(search.study)
    if winner is None:
        raise ValueError(f"no run is finished: --budget {settings.budget} is used up; give more")
    full = rungs.full
    record: dict[str, Any] = {
        "kind": "tune",
        **where,
        "config": kept_settings(settings),
        "space": {name: str(values) for name, values in space.items()},
        "log": [name for name, values in space.items() if values.log],
        "defaults": default_params(settings, space),
        "rungs": list(rungs.epochs),
        "continues": settings.continues,
        "search_seconds": round(search.clock.seconds, 1),
        "trials": trial_records(search.study),
        "winner": winner.number,
        "best": best_settings(settings, winner, full),
        "confirmation": None,
    }
    methods = methods_of(settings, method_of(settings, winner.params, full, full))
    unconfirmed = write_results(settings, record | {"answer": verdict(record, None)})
    if settings.seeds == 0 or len(methods) == 1:
        return unconfirmed
    say(f"confirm trial {winner.number} on {counted(settings.seeds, 'fresh seed')}: {', '.join(methods)}")
    folder = f"confirmation/trial-{winner.number:03d}"
    grid = settings.comparison(methods, full, settings.seeds, settings.seed + 1)
    comparison, problems = compare(replace(grid, out=settings.out / folder), say)
    record["confirmation"] = {
        "folder": folder,
        "seeds": comparison["seeds"],
        "problems": problems,
        "answer": comparison["answer"],
        "methods": methods,
        "differences": differences(comparison),
    }
    return write_results(settings, record | {"answer": verdict(record, comparison)})


def write_results(settings: TuneSettings, record: dict[str, Any]) -> dict[str, Any]:
    """Write ``best.yaml``, ``record.json`` and the page; return the record."""
    words = fill(record["answer"], 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    best = yaml.safe_dump(record["best"], sort_keys=False, allow_unicode=True)
    write_text(
        settings.out / BEST,
        f"# Found by recursivemix tune; for recursivemix fit --config.\n{words}\n{best}",
    )
    write_json(settings.out / RECORD, record)
    write_text(settings.out / PAGE, build_tuning_page(record))
    return record


def best_settings(settings: TuneSettings, winner: FrozenTrial, full: int) -> dict[str, Any]:
    """Return the winner's settings for ``fit``, on all training images.

    Only data without a val or test split keep a share of them for evaluation.
    """
    method = method_of(settings, winner.params, full, full)
    values = settings.comparison({FOUND: method}, full).run_settings(FOUND, settings.seed)
    del values["holdout"]
    try:
        run = task_settings("classification", values, "--settings or --space")
        assert isinstance(run, ClassificationSettings)
        open_images(run, settings.seed)
    except ValueError:
        values["val_split"] = settings.val_split
    return values


def check_not_search(folder: Path) -> None:
    """Raise ValueError if a folder holds a search, which has a page and comparisons of its own."""
    if (folder / SETTINGS).is_file():
        page = folder / PAGE
        confirmations = sorted(str(file.parent) for file in folder.glob("confirmation/*/comparison.yaml"))
        raise ValueError(
            f"{folder} holds a search of recursivemix tune, "
            f"{f'with the page {page}' if page.is_file() else 'which has no page yet'}"
            f"{f'; report the confirmation in {listed(confirmations)}' if confirmations else ''}"
        )


# -- before the search ------------------------------------------------------------------------------


def kept_settings(settings: TuneSettings) -> dict[str, Any]:
    """Return the settings that decide which runs are made, as plain values."""
    values = {name: value for name, value in settings.as_plain().items() if name not in MAY_CHANGE}
    return values | {"data": None if settings.data is None else str(settings.data)}


def with_known_epochs(settings: TuneSettings) -> TuneSettings:
    """Return settings with the epochs of the folder's search, or of ``fit`` if there is no budget.

    Raises:
        ValueError: the folder's search has other settings.
    """
    file = settings.out / SETTINGS
    if not file.is_file():
        if settings.epochs is not None or settings.budget is not None:
            return settings
        return replace(settings, epochs=settings.default_of("epochs"))
    before = read_yaml(file)
    settings = replace(settings, epochs=settings.epochs or before["epochs"])
    now = yaml.safe_load(yaml.safe_dump(kept_settings(settings)))
    changes = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in now
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise ValueError(
            f"{settings.out} holds a search with other settings ({'; '.join(changes)}): choose another "
            f"--out"
        )
    return settings


def check_runs(settings: TuneSettings, space: dict[str, Range]) -> None:
    """Check data, network and mixer with the default settings, and with the ends of given ranges.

    Raises:
        ValueError: names the setting and what is wrong.
    """
    defaults, epochs = default_params(settings, space), settings.epochs or settings.default_of("epochs")
    cases = {"defaults": defaults}
    for name in settings.space:
        values = space[name].choices or (space[name].low, space[name].high)
        cases |= {f"{name}={value}": defaults | {name: value} for value in values}
    methods = {
        re.sub(r"[^\w.+=-]", "-", label): method_of(settings, params, epochs, epochs)
        for label, params in cases.items()
    }
    check_grid(settings.comparison(methods, epochs))


def check_shortest(settings: TuneSettings, space: dict[str, Range], rungs: Rungs) -> None:
    """Raise ValueError for settings that runs of the first rung cannot have, such as a late unfreezing."""
    method = method_of(settings, default_params(settings, space), rungs.epochs[0], rungs.full)
    try:
        settings.comparison({FOUND: method}, rungs.epochs[0]).check_methods()
    except ValueError as error:
        raise ValueError(
            f"runs of the first rung have {counted(rungs.epochs[0], 'epoch')}: {error}; use more --epochs "
            f"or fewer --rungs"
        ) from error


def with_epochs(settings: TuneSettings, space: dict[str, Range]) -> tuple[TuneSettings, Pace | None]:
    """Return settings with the epochs of a full run, and the pace that was measured to choose them.

    Raises:
        ValueError: the budget is too short for one bracket.
    """
    if settings.epochs is not None:
        return settings, None
    assert settings.budget is not None
    usual = settings.default_of("epochs")  # a run of one epoch cannot have every setting
    method = method_of(settings, default_params(settings, space), usual, usual)
    grid = settings.comparison({FOUND: method}, usual)
    with threads_of(grid):
        run = grid.standalone_run(FOUND, settings.seed)
        pace = measure_run(run, FOUND, settings.settings.get("trainer", {}))
    budget = budget_seconds(settings.budget)
    brackets = [BRACKETS, BRACKETS - 1, 1]
    if settings.trials is not None:
        brackets = [ceil(settings.trials / settings.reduction ** (settings.rungs - 1))]
    for number in brackets:
        full = longest(settings, pace, budget / number)
        if full >= settings.reduction ** (settings.rungs - 1) or (full and number == brackets[-1]):
            return replace(settings, epochs=full), pace
    least = brackets[-1] * rungs_of(1, settings).seconds(pace, settings.jobs, settings.continues)
    raise ValueError(
        f"--budget {settings.budget} is too short: the shortest search needs about {duration(least)}"
    )


def longest(settings: TuneSettings, pace: Pace, seconds: float) -> int:
    """Return the most epochs of a full run with which a bracket fits into ``seconds``; 0 if none do."""
    full = 0
    while rungs_of(full + 1, settings).seconds(pace, settings.jobs, settings.continues) <= seconds:
        full += 1
    return full


def plan_line(settings: TuneSettings, rungs: Rungs, pace: Pace | None) -> str:
    """Return what will be run, in one line."""
    lengths = listed([str(epochs) for epochs in rungs.epochs])
    most = settings.most_trials
    total = "" if most is None else f"{counted(most, 'trial')} in "
    line = f"{settings.mixer}: {total}brackets of {rungs.size}, compared at epoch {lengths}"
    if pace is not None:
        seconds = rungs.seconds(pace, settings.jobs, settings.continues)
        line += f", about {duration(seconds)} each"
        if settings.seeds:
            runs = ceil(3 * settings.seeds / settings.jobs)
            line += (
                f"; then the confirmation, about {duration(runs * (2 * pace.once + pace.run(rungs.full)))}"
            )
    return line
