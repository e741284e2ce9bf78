"""Collect the records of finished runs into the content of ``comparison.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recursivemix.training.plain_file import named_errors, read_json

from .execute import EVALUATION, RECORD, is_finished
from .grid import Run, labelled_runs
from .metrics import metrics_of, values_of
from .records import Comparison, with_statistics
from .settings import CompareSettings


def collect(settings: CompareSettings, out: Path, where: dict[str, Any]) -> Comparison:
    """Read the finished runs of a comparison and compute its statistics.

    Args:
        settings: of the comparison, with its number of epochs.
        out: its folder.
        where: command, versions and hardware, as `environment` returns them.

    Raises:
        ValueError: no run is finished.
    """
    runs = labelled_runs(settings)
    finished = [run for run in runs if is_finished(run, out)]
    if not finished:
        raise ValueError(f"{out} has no finished run: see the logs in {out / 'runs'}")
    first = _read(out, finished[0].folder)
    read = {(run.label, run.seed): read_run(run, out) for run in finished}
    methods = []
    for label in settings.labels:
        method = settings.method(label)
        differs_by = method.pop("backbone" if settings.pretrains else "mixer")
        of_label = [read[label, seed] for seed in settings.all_seeds if (label, seed) in read]
        if of_label:
            methods.append({"label": label, "mixer": differs_by, "options": method, "runs": of_label})
    backbone = methods[0]["runs"][0]["backbone"]
    comparison = {
        "kind": "comparison",
        **where,
        "task": settings.task,
        "config": config_values(settings),
        "config_yaml": config_yaml(settings),
        "data": _data_of(first, finished[0], out),
        "model": finished[0].settings.get("model") or (backbone or {}).get("model"),
        "epochs": finished[0].settings["epochs"],
        "pretraining": None if backbone is None else backbone["data"] | {
            "model": backbone["model"], "epochs": backbone["epochs"],
        },
        "score": score if (score := first.get("score", "acc1")) != "acc1" else "acc1_last",
        "seeds": list(settings.all_seeds),
        "baseline": settings.reference,
        "unfinished": [run.name for run in runs if run not in finished],
        "methods": methods,
        "metrics": metrics_of(first, settings.pretrains),
    }  # fmt: skip
    return with_statistics(comparison)


def read_run(run: Run, out: Path) -> dict[str, Any]:
    """Return what ``comparison.json`` holds of a finished run."""
    with named_errors(out / run.folder / RECORD):
        record = _read(out, run.folder)
        parameters = record.get("parameters")
        if not isinstance(parameters, dict):  # a number, in older records of detection and segmentation
            parameters = {"training": parameters, "inference": parameters}
        read: dict[str, Any] = {
            "seed": run.seed,
            "folder": run.folder,
            "commit": record["commit"],
            "best_epoch": record["best_epoch"],
            "epochs": record["epochs"],
            "cost": {
                "seconds": record["seconds"],
                "images_per_second": record["images_per_second"],
                "peak_memory_bytes": record.get("peak_memory_bytes"),
                "parameters_training": parameters["training"],
                "parameters_inference": parameters["inference"],
            },
            "evaluation": None,
            "backbone": None,
        }
        for name in ("per_class", "score_last", "score_best"):
            if name in record:
                read[name] = record[name]
        if run.probes is not None:
            evaluation = read_json(out / run.folder / EVALUATION)
            predictions = evaluation.pop("predictions", None)
            read |= {"evaluation": evaluation, "correct": (predictions or {}).get("correct")}
        if run.backbone is not None:
            before = _read(out, run.backbone)
            data = before["config"].get("data")
            read["backbone"] = {
                "commit": before["commit"],
                "acc1_last": before.get("acc1_last", before.get("score_last")),
                "seconds": before["seconds"],
                "model": before["config"]["model"],
                "epochs": len(before["epochs"]),
                "data": {
                    "name": "digits" if data is None else Path(data).name,
                    "train_images": before["data"]["train_images"],
                    "image_size": before["data"]["image_size"],
                },
                "keys": record["backbone"],
            }
        return read | {"values": values_of(read, record)}


def _read(out: Path, folder: str) -> dict[str, Any]:
    return read_json(out / folder / RECORD)


def _data_of(record: dict[str, Any], run: Run, out: Path) -> dict[str, Any]:
    """Return the data set's name, sizes and classes."""
    data: dict[str, Any] = dict(record["data"])
    if run.probes is not None:
        data["classes"] = read_json(out / run.folder / EVALUATION)["classes"]
    path = run.settings.get("data")
    data["name"] = Path(path).name if path is not None else data.get("name", "digits")
    return data


def config_values(settings: CompareSettings) -> dict[str, Any]:
    """Return the settings that decide what is run, as plain values."""
    values = settings.as_plain()
    for name in ("dry_run", "executor", "jobs", "address", "out", "budget", "trust_config"):
        del values[name]
    if settings.data is None:
        del values["data"], values["dataset"]
    values["mixers"] = ",".join(settings.named_mixers)
    kept = {name: value for name, value in values.items() if value not in (None, {})}
    return kept | ({"pretrain": settings.pretrain} if settings.pretrains else {})


def config_yaml(settings: CompareSettings) -> str:
    """Return a file for ``recursivemix compare --config`` that repeats the comparison."""
    return str(yaml.safe_dump(config_values(settings), sort_keys=False, allow_unicode=True))
