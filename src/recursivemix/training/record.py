"""The record of a run: everything needed to compare it, and to repeat it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from .devices import peak_memory
from .prepare import PreparedRun


@dataclass(frozen=True)
class Result:
    """Results of a finished run; scores are in percent, on the evaluation split."""

    folder: Path
    rows: list[dict[str, float]]
    """Metrics of each epoch."""
    score: str
    """Name of the score."""
    last: float
    """Score of the last epoch."""
    best: float
    best_epoch: int
    seconds: float
    images_per_second: float
    """In training only."""
    evaluated: int
    """Number of images that the score is measured on."""


def plain_settings(run: PreparedRun) -> dict[str, Any]:
    """Return the settings of a run as plain values, with the Trainer's options under ``trainer``.

    Options that are objects are left out: only their code can make them again.
    """
    options = {name: value for name, value in run.trainer_options.items() if _is_plain(value)}
    return run.settings.as_plain() | ({"trainer": options} if options else {})


def settings_text(run: PreparedRun) -> str:
    """Return the content of ``config.yaml``, which ``--config`` and ``--resume`` read."""
    return yaml.safe_dump(plain_settings(run), sort_keys=False)


def run_record(run: PreparedRun, result: Result, environment: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a finished run, for ``record.json``.

    Args:
        run: that was fitted.
        result: of `recursivemix.training.fit.fit`.
        environment: in which it started, see `recursivemix.training.environment.environment`.
    """
    learner, last = run.learner, result.rows[-1]
    return {
        "kind": run.task.command,
        **environment,
        "seed": run.settings.seed,
        "config": plain_settings(run),
        "precision": str(run.trainer.precision),
        "data": {
            "name": learner.hparams["data"].get("name"),
            "train_images": len(run.data.train),
            "evaluation_images": result.evaluated,
            "evaluation_split": run.data.split,
            "classes": list(run.data.classes),
            "image_size": learner.hparams.get("image_size"),
        },
        "score": result.score,
        "score_last": result.last,
        "score_best": result.best,
        "best_epoch": result.best_epoch,
        "metrics": {name: last.get(name) for name in learner.evaluated},
        "per_class": learner.per_class,
        "seconds": result.seconds,
        "resumed_at_steps": run.log.resumed_at,
        "images_per_second": round(result.images_per_second, 2),
        "peak_memory_bytes": peak_memory(run.trainer.strategy.root_device),
        "parameters": {
            "training": count_parameters(learner.network),
            "inference": count_parameters(learner.inference_network),
        },
        "mixer_stats": getattr(learner.mixer, "stats", {}),
        **learner.record(),
        "epochs": result.rows,
    }


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))
