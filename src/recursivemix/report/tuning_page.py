"""Build the page of a search for settings from its ``record.json``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import spearmanr

from recursivemix.data.printable import counted

from .page import Code, Page, Plot, Section, Table, render
from .plots import Figure, Series, lines, points
from .sections import environment_table
from .words import NOTHING, number, p_words, with_interval

STATES = {"complete": "full length", "pruned": "stopped at a rung", "fail": "failed", "running": "open"}
"""States of Optuna's trials, and how they are called here."""
FOUND, DEFAULTS, OTHERS = LABELS = ("settings found", "default settings", "other trials")
LEAST_TRIALS = 5
"""Number of trials below which no correlation is shown."""


def build_tuning_page(record: dict[str, Any]) -> str:
    """Return the page as HTML."""
    sections = [
        confirmation_section(record),
        trials_section(record),
        settings_section(record),
        repeat_section(record),
    ]
    return render(
        Page(
            title="Which settings?",
            answer=record["answer"],
            facts=facts(record),
            labels=LABELS,
            sections=[section for section in sections if section is not None],
            notices=notices(record),
            labels_are="Trials in the plots",
        )
    )


def facts(record: dict[str, Any]) -> str:
    """Describe data, runs and schedule."""
    config = record["config"]
    data = "digits" if config["data"] is None else Path(config["data"]).name
    schedule = (
        "Runs share the schedule of the longest one and go on from their checkpoint"
        if record["continues"]
        else "Each rung trains a complete learning-rate schedule from the start"
    )
    rungs = ", ".join(str(epochs) for epochs in record["rungs"])
    return (
        f"Settings of {config['mixer']} on {data}, {record['best']['model']}: "
        f"{counted(len(record['trials']), 'trial')} in rungs of {rungs} epochs, "
        f"{record['search_seconds'] / 60:.1f} min. {schedule}. Scores are of the last epoch, on "
        f"{100 * config['val_split']:.0f} % of the training images, held out; no test image is used."
    )


def notices(record: dict[str, Any]) -> list[str]:
    """Return what a reader must know before the numbers."""
    notes = []
    if record["confirmation"] is not None and record["confirmation"]["problems"]:
        notes.append(
            f"Runs of the confirmation failed: {'; '.join(record['confirmation']['problems'].values())}"
        )
    reached = max(int(epochs) for epochs in record["trials"][record["winner"]]["scores"])
    if reached < record["rungs"][-1]:
        notes.append(
            f"The time was used up before a run of full length: the winner has {counted(reached, 'epoch')}."
        )
    return notes


def confirmation_section(record: dict[str, Any]) -> Section | None:
    """Tabulate the differences on fresh seeds."""
    confirmation = record["confirmation"]
    if confirmation is None:
        return None
    rows = [
        [
            pair["method"],
            settings_words(confirmation["methods"][pair["method"]]),
            with_interval(pair, 2, "+"),
            p_words(pair["p_corrected"]),
            str(pair["n"]),
        ]
        for pair in confirmation["differences"]
    ]
    columns = ["Baseline", "Its settings", "Difference of the settings found (95 % interval), points",
               "p, corrected", "Seeds"]  # fmt: skip
    text = (
        f"Seeds {', '.join(map(str, confirmation['seeds']))}, which the search has not used; each holds "
        f"out other images. The full comparison is in {confirmation['folder']}/page.html."
    )
    return Section(
        "Confirmation", text=[text], tables=[Table("The settings found minus none", columns, rows)]
    )


def trials_section(record: dict[str, Any]) -> Section:
    """Draw the scores by rung, and tabulate all trials, the best first."""
    rungs, space = [str(epochs) for epochs in record["rungs"]], list(record["space"])
    trials = sorted(record["trials"], key=rank, reverse=True)
    table = Table(
        "All trials, the best first",
        ["Trial", *(f"{counted(int(epochs), 'epoch')} (%)" for epochs in rungs), "State", *space],
        [
            [
                f"{trial['number']}{mark(record, trial)}",
                *(number(trial["scores"].get(epochs), 2) for epochs in rungs),
                STATES.get(trial["state"], trial["state"]),
                *(value_words(trial["params"].get(name)) for name in space),
            ]
            for trial in trials
        ],
    )
    series = [
        one_trial(record, trial, list(map(int, trial["scores"])), [*trial["scores"].values()])
        for trial in trials
    ]
    figure = lines(series, "epochs of the run", "score, %", percent=True)
    name_trials(figure, trials)
    figure["layout"]["xaxis"] |= {"type": "log", "tickvals": record["rungs"], "ticktext": rungs}
    one_of = record["config"]["reduction"]
    text = f"At each rung, the best of every {one_of} trials of a bracket goes on to the next."
    scores = Table(
        "Score by rung", table.columns[: 1 + len(rungs)], [row[: 1 + len(rungs)] for row in table.rows]
    )
    return Section("Trials", plots=[Plot("Score by rung", figure, text, scores)], tables=[table])


def settings_section(record: dict[str, Any]) -> Section:
    """Draw the score at the first rung, which all trials share, against each searched setting."""
    first = str(record["rungs"][0])
    scored = [trial for trial in record["trials"] if first in trial["scores"]]
    after = f"score after {counted(int(first), 'epoch')}"
    scores = [trial["scores"][first] for trial in scored]
    rows, plots = [], []
    for name, values in record["space"].items():
        chosen = [trial["params"][name] for trial in scored]
        varied = len(set(chosen)) > 1 and all(isinstance(value, (int, float)) for value in chosen)
        correlation = None
        if varied and len(set(scores)) > 1 and len(scores) >= LEAST_TRIALS:
            correlation = float(spearmanr([float(value) for value in chosen], scores).statistic)
        found = record["trials"][record["winner"]]["params"].get(name)
        rows.append([
            name, values, value_words(record["defaults"].get(name)), value_words(found),
            number(correlation, 2),
        ])  # fmt: skip
        if varied:
            plots.append(setting_plot(record, name, scored, first))
    table = Table(
        "What was searched",
        ["Setting", "Values", "Default", "Found", f"Rank correlation with the {after}"],
        rows,
    )
    text = (
        "mix_stop is a share of the epochs. A correlation near 0 says that the setting hardly matters in "
        "this range, or that its best value is inside it: see the plot. Few trials give rough values."
    )
    return Section("Settings", text=[text], tables=[table], plots=plots)


def setting_plot(record: dict[str, Any], name: str, trials: list[dict[str, Any]], rung: str) -> Plot:
    """Draw one point per trial."""
    series = [one_trial(record, one, [one["params"][name]], [one["scores"][rung]]) for one in trials]
    figure = points(series, name, f"score after {counted(int(rung), 'epoch')}, %")
    name_trials(figure, trials)
    if name in record["log"]:
        figure["layout"]["xaxis"] |= {"type": "log", "exponentformat": "power"}
    rows = [
        [str(t["number"]), value_words(t["params"][name]), number(t["scores"][rung], 2)] for t in trials
    ]
    title = f"Score by {name}"
    return Plot(
        title,
        figure,
        f"After {counted(int(rung), 'epoch')}.",
        Table(title, ["Trial", name, "Score (%)"], rows),
    )


def repeat_section(record: dict[str, Any]) -> Section:
    """Show command, settings found and versions."""
    best = yaml.safe_dump(record["best"], sort_keys=False, allow_unicode=True)
    return Section(
        "Use it, repeat it",
        codes=[
            Code("best.yaml, for recursivemix fit --config", best),
            Code("Command of the search", shlex.join(record["command"])),
        ],
        tables=[environment_table(record, [])],
    )


def kind_of(record: dict[str, Any], trial: dict[str, Any]) -> str:
    """Return the label of a trial in the plots."""
    if trial["number"] == record["winner"]:
        return FOUND
    return DEFAULTS if record["defaults"] == trial["params"] else OTHERS


def one_trial(record: dict[str, Any], trial: dict[str, Any], x: list[Any], y: list[Any]) -> Series:
    """Return the points of a trial."""
    kind = kind_of(record, trial)
    return Series(kind, LABELS.index(kind), x, y)


def name_trials(figure: Figure, trials: list[dict[str, Any]]) -> None:
    """Show the number of each trial at its points."""
    for trace, trial in zip(figure["data"], trials, strict=True):
        trace["name"] = f"trial {trial['number']}"


def mark(record: dict[str, Any], trial: dict[str, Any]) -> str:
    """Return what follows the number of the trial in the table."""
    kind = kind_of(record, trial)
    return "" if kind == OTHERS else f" ({kind})"


def rank(trial: dict[str, Any]) -> tuple[int, float]:
    """Return the sort key of a trial: the longest rung first, then the score."""
    return max(((int(epochs), score) for epochs, score in trial["scores"].items()), default=(0, 0.0))


def value_words(value: Any) -> str:
    """Format the value of a setting."""
    if value is None:
        return NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings_words(method: dict[str, Any]) -> str:
    """Format the settings of a method on one line."""
    flat = method | method.get("mixer_options", {})
    return ", ".join(f"{name} {value_words(flat[name])}" for name in flat if name != "mixer_options")
