"""From the records of the runs to what the page shows: `comparison.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from recursivemix.evaluation.probe import Metric
from recursivemix.evaluation.probes import compared_metrics
from recursivemix.report.statistics import compare_all, estimate, paired_difference
from recursivemix.report.table import settled
from recursivemix.report.words import interval, listed

from .execute import EVALUATION, RECORD, is_finished
from .grid import CompareConfig, Job, jobs_of

Run = dict[str, Any]
"""One finished run, as in ``comparison.json``."""


def evaluation_reader(metric: Metric) -> Callable[[Run], float | None]:
    """Return a function that reads a probe's number from a run."""
    return lambda run: metric.read(run["evaluation"])


METRICS: dict[str, tuple[str, str, bool, Callable[[Run], float | None]]] = {
    "acc1_last": ("Accuracy, last epoch", "%", True, lambda run: run["acc1_last"]),
    "acc1_best": ("Accuracy, best epoch", "%", True, lambda run: run["acc1_best"]),
    **{
        metric.name: (metric.title, metric.unit, metric.higher_is_better, evaluation_reader(metric))
        for metric in compared_metrics()
    },
    "images_per_second": ("Training speed", "images/s", True, lambda run: run["cost"]["images_per_second"]),
}
"""Numbers that methods are compared by: title, unit, whether more is better, and how to read it."""


def collect(config: CompareConfig, folder: Path, where: dict[str, Any]) -> dict[str, Any]:
    """What the finished runs of a comparison say.

    Args:
        config: its settings, with the number of epochs.
        folder: its folder.
        where: what `environment` says.

    Raises:
        ValueError: no run is finished.
    """
    jobs = jobs_of(config)
    finished = [job for job in jobs if is_finished(folder / "runs" / job.name)]
    if not finished:
        raise ValueError(f"{folder} has no finished run: see the logs in {folder / 'runs'}")
    runs: dict[str, dict[int, Run]] = {label: {} for label in config.labels}
    for job in finished:
        runs[job.label][job.seed] = read_run(folder, job)
    for own in runs.values():
        for seed, run in own.items():
            reference = runs[config.reference].get(seed)
            run["cost"]["step_overhead"] = (
                None
                if reference is None
                else reference["cost"]["images_per_second"] / run["cost"]["images_per_second"]
            )
    record = json.loads((folder / "runs" / finished[0].name / RECORD).read_text())
    evaluated = json.loads((folder / "runs" / finished[0].name / EVALUATION).read_text())
    pairs = compare_all(runs, config.reference, {name: read for name, (_, _, _, read) in METRICS.items()})
    comparison = {
        "kind": "comparison",
        **where,
        "config": config_values(config),
        "config_yaml": config_yaml(config),
        "data": {
            "name": "digits" if config.data is None else config.data.name,
            "train_images": record["data"]["train_images"],
            "evaluation_images": record["data"]["evaluation_images"],
            "evaluation_split": record["data"]["evaluation_split"],
            "classes": evaluated["classes"],
            "image_size": record["data"]["image_size"],
        },
        "model": config.model,
        "epochs": config.epochs,
        "seeds": list(range(config.seeds)),
        "baseline": config.reference,
        "unfinished": [job.name for job in jobs if job not in finished],
        "methods": [
            {
                "label": label,
                "mixer": config.method(label)["mixer"],
                "options": {name: v for name, v in config.method(label).items() if name != "mixer"},
                "runs": [own[seed] for seed in sorted(own)],
                "estimates": {
                    metric: asdict(estimate(values))
                    for metric in METRICS
                    if (
                        values := [
                            v for v in (METRICS[metric][3](own[s]) for s in sorted(own)) if v is not None
                        ]
                    )
                },
            }
            for label, own in runs.items()
            if own
        ],
        "metrics": {
            metric: {"name": name, "unit": unit, "higher_is_better": more}
            for metric, (name, unit, more, _) in METRICS.items()
        },
        "pairs": pairs,
    }
    return comparison | {"answer": answer(comparison, runs)}


def read_run(folder: Path, job: Job) -> Run:
    """One finished run, of its two records."""
    own = folder / "runs" / job.name
    record = json.loads((own / RECORD).read_text())
    evaluation = json.loads((own / EVALUATION).read_text())
    evaluation.pop("predictions", None)  # one value per image stays in the run's own record
    return {
        "seed": job.seed,
        "folder": f"runs/{job.name}",
        "commit": record["commit"],
        "acc1_last": record["acc1_last"],
        "acc1_best": record["acc1_best"],
        "best_epoch": record["best_epoch"],
        "epochs": record["epochs"],
        "cost": {
            "seconds": record["seconds"],
            "images_per_second": record["images_per_second"],
            "peak_memory_bytes": record["peak_memory_bytes"],
            "parameters_training": record["parameters"]["training"],
            "parameters_inference": record["parameters"]["inference"],
        },
        "evaluation": evaluation,
    }


def answer(comparison: dict[str, Any], runs: dict[str, dict[int, Run]]) -> str:
    """One sentence: which method pays, if one can be told, and how sure that is."""
    reference = comparison["baseline"]
    pairs = [pair for pair in comparison["pairs"] if pair["metric"] == "acc1_last"]
    images, data = comparison["data"]["train_images"], comparison["data"]["name"]
    place = f"on {data} ({images:,} training images, {comparison['model']}, {comparison['epochs']} epochs)"
    if not pairs:
        return (
            f"Nothing can be compared yet {place}: no seed is finished for {reference} and another method."
        )
    best = max(pairs, key=lambda pair: float(pair["mean"]))
    if best["n"] < 2:
        return (
            f"One seed can't tell methods apart {place}: {best['method']} is {best['mean']:+.2f} points "
            f"from {reference}, with no interval; run more --seeds."
        )
    better = [pair for pair in pairs if settled(pair) and pair["mean"] > 0]
    if better:
        first = max(better, key=lambda pair: float(pair["mean"]))
        words = (
            f"{first['method']} is more accurate than {reference} {place}, by {first['mean']:.2f} points "
            f"({interval(first)}, {first['n']} seeds, corrected p {first['p_corrected']:.2g})"
        )
        higher = [pair["method"] for pair in pairs if pair["mean"] > first["mean"]]
        close = [
            pair["method"]
            for pair in pairs
            if pair is not first
            and pair["method"] not in higher
            and not separated(runs, first["method"], pair["method"])
        ]
        if close:
            words += f"; it can't be told apart from {listed(close)}"
        if higher:
            words += f"; {listed(higher)} came out higher still, but that is not shown"
        return f"{words}."
    words = (
        f"No method is shown to be more accurate than {reference} {place}: the largest difference is "
        f"{best['method']}'s, {best['mean']:+.2f} points ({interval(best)}, {best['n']} seeds, "
        f"corrected p {best['p_corrected']:.2g})"
    )
    if best["mean"] > 0 and best["seeds_needed"]:
        words += f"; about {best['seeds_needed']} seeds would settle it if it stayed so"
    worse = [pair["method"] for pair in pairs if settled(pair) and pair["mean"] < 0]
    return words + (
        f"; {listed(worse)} {'is' if len(worse) == 1 else 'are'} less accurate." if worse else "."
    )


def separated(runs: dict[str, dict[int, Run]], first: str, second: str) -> bool:
    """Whether the interval of two methods' difference in accuracy leaves zero out; not corrected."""
    seeds = sorted(runs[first].keys() & runs[second].keys())
    value = METRICS["acc1_last"][3]
    values = [[value(runs[label][seed]) or 0.0 for seed in seeds] for label in (first, second)]
    difference = paired_difference(*values)
    return (
        difference.low is not None
        and difference.high is not None
        and (difference.low > 0 or difference.high < 0)
    )


def config_values(config: CompareConfig) -> dict[str, Any]:
    """The settings that decide what is run, as plain values."""
    values = asdict(config)
    for name in ("dry_run", "executor", "jobs", "address", "out", "budget"):
        del values[name]
    if config.data is None:
        del values["data"], values["dataset"]
    else:
        values["data"] = str(config.data)
    return {name: value for name, value in values.items() if value not in (None, {})}


def config_yaml(config: CompareConfig) -> str:
    """A file for ``recursivemix compare --config`` that repeats the comparison."""
    return str(yaml.safe_dump(config_values(config), sort_keys=False, allow_unicode=True))
