"""The content of ``comparison.json``: from the records of the runs, or from an older comparison."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recursivemix.report.pairs import PerImage, PerImageReader, Run, Runs, bounds_of, compare_all
from recursivemix.report.statistics import estimate
from recursivemix.training.plain_file import named_errors, read_json

from .answer import answer
from .metrics import metrics_of, values_of

COMPARISON, OLDER = "comparison.json", "transfer.json"
Comparison = dict[str, Any]
"""What ``comparison.json`` holds."""


def read_comparison(folder: Path, baseline: str | None = None) -> Comparison:
    """Read the record of a comparison, also of an earlier version, and compute its statistics again.

    Args:
        folder: of the comparison.
        baseline: compare with this method instead of the recorded one.

    Raises:
        ValueError: there is no record, or no such method.
    """
    file = next((folder / name for name in (COMPARISON, OLDER) if (folder / name).is_file()), None)
    if file is None and not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    if file is None:
        raise ValueError(f"{folder} has no {COMPARISON}: expected the --out folder of recursivemix compare")
    record = read_json(file)
    with named_errors(file):
        return with_statistics(_upgraded(record), baseline)


def with_statistics(comparison: Comparison, baseline: str | None = None) -> Comparison:
    """Add estimates, pairs and answer to a comparison.

    Raises:
        ValueError: ``baseline`` is not one of its methods.
    """
    labels = [method["label"] for method in comparison["methods"]]
    reference = baseline or comparison["baseline"]
    if baseline is not None and baseline not in labels:
        raise ValueError(f"--baseline must be one of {', '.join(labels)}, got {baseline}")
    metrics = comparison["metrics"]
    runs: dict[str, Runs] = {
        method["label"]: {run["seed"]: run for run in method["runs"]} for method in comparison["methods"]
    }
    methods = []
    for method in comparison["methods"]:
        for run in method["runs"]:
            run["cost"]["step_overhead"] = _overhead(run, runs.get(reference, {}).get(run["seed"]))
        estimates = {}
        for name, about in metrics.items():
            values = [run["values"][name] for run in method["runs"] if name in run["values"]]
            if values:
                estimates[name] = asdict(estimate(values, bounds_of(about)))
        methods.append(method | {"estimates": estimates})
    read = image_reader(comparison)
    pairs = compare_all(runs, reference, metrics, read) if reference in runs else []
    result = comparison | {"methods": methods, "baseline": reference, "pairs": pairs}
    return result | {"answer": answer(result, runs, read)}


def image_reader(comparison: Comparison) -> PerImageReader:
    """Return a function that reads a run's accuracy image by image."""
    config = comparison.get("config", {})
    settings = config.get("settings", {})
    # The seed chooses the test images.
    drawn = any(name in settings for name in ("val_split", "holdout", "folds"))
    drawn = "folds" in config or (drawn and settings.get("split_seed") is None)

    def read(run: Run, metric: str) -> PerImage | None:
        if metric != "acc1_last" or not run.get("correct"):
            return None
        bits = np.frombuffer(base64.b64decode(run["correct"]), dtype=np.uint8)
        correct = np.unpackbits(bits, count=run["evaluation"]["images"]).astype(np.float64)
        return PerImage(100 * correct, f"seed {run['seed']}" if drawn else "")

    return read


def _overhead(run: Run, reference: Run | None) -> float | None:
    """Return the time per image as a multiple of the reference's."""
    if reference is None:
        return None
    speed, other = run["cost"]["images_per_second"], reference["cost"]["images_per_second"]
    return None if other is None or not speed else float(other) / float(speed)


def _upgraded(record: Comparison) -> Comparison:
    """Convert a record of an earlier version, which had one form per task, to the present form."""
    if "score" not in record:  # of recursivemix compare
        record = record | {"task": "classification", "score": "acc1_last", "pretraining": None}
    elif "model" not in record:  # of recursivemix transfer compare
        before = record["pretraining"] | {"epochs": record["epochs"]["pretraining"]}
        record = record | {
            "model": before["model"], "epochs": record["epochs"]["transfer"], "pretraining": before,
        }  # fmt: skip
    else:
        return record
    methods = [method | {"runs": list(map(_upgraded_run, method["runs"]))} for method in record["methods"]]
    first = methods[0]["runs"][0]
    return record | {"methods": methods, "metrics": metrics_of(first, record["pretraining"] is not None)}


def _upgraded_run(run: dict[str, Any]) -> dict[str, Any]:
    cost = run.get("cost") or {name: run[name] for name in ("seconds", "images_per_second")}
    converted = run | {"cost": cost, "evaluation": run.get("evaluation")}
    return converted | {"values": values_of(converted, run)}
