"""Records and result tables of training runs."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from recursivemix.models.region import RegionModel
from recursivemix.tasks.classification_fit import FitRun
from recursivemix.tasks.transfer_fit import TransferRun
from recursivemix.tasks.transfer_settings import METRIC_NAMES
from recursivemix.training.run import PreparedRun, Result


def fit_record(
    run: FitRun, result: Result, where: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """All that a comparison or a reader needs to know of a run, and to repeat it."""
    return {
        "kind": "fit",
        **where,
        "seed": run.config.seed,
        "config": config,
        "precision": str(run.trainer.precision),
        "data": {
            "train_images": len(run.data.train),
            "evaluation_images": result.evaluated,
            "evaluation_split": run.data.split,
            "classes": len(run.data.classes),
            "image_size": run.data.image_size,
        },
        "acc1_last": result.last,
        "acc1_best": result.best,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "resumed_at_steps": run.rows.resumed_at,
        "images_per_second": round(result.images_per_second, 1),
        "peak_memory_bytes": peak_memory(run),
        "parameters": parameters(run),
        "mixer_stats": run.module.mixer.stats,
        "feature_map": feature_map(run),
        "epochs": result.rows,
    }


def transfer_record(
    run: TransferRun, result: Result, where: dict[str, Any], task: str, config: dict[str, Any]
) -> dict[str, Any]:
    """All that a comparison or a reader needs to know of a transfer run, and to repeat it."""
    module = run.module
    last = result.rows[-1]
    return {
        "kind": f"transfer {task}",
        **where,
        "seed": run.config.seed,
        "config": config,
        "precision": str(run.trainer.precision),
        "data": {
            "name": module.hparams["data"]["name"],
            "train_images": len(run.data.train),
            "evaluation_images": result.evaluated,
            "evaluation_split": run.data.split,
            "classes": list(run.data.classes),
        },
        "score": module.score,
        "score_last": result.last,
        "score_best": result.best,
        "best_epoch": result.best_epoch,
        "metrics": {name: finite(last.get(name)) for name in module.evaluated},
        "per_class": {name: finite(value) for name, value in module.per_class.items()},
        "seconds": result.seconds,
        "resumed_at_steps": run.rows.resumed_at,
        "images_per_second": round(result.images_per_second, 2),
        "peak_memory_bytes": peak_memory(run),
        "parameters": sum(p.numel() for p in module.network.parameters()),
        "mixer_stats": getattr(module.mixer, "stats", {}),
        "epochs": [{name: finite(value) for name, value in row.items()} for row in result.rows],
    }


def finite(value: float | None) -> float | None:
    """A number that JSON has; None where nothing could be measured, such as AP of large objects that
    there are none of."""
    return value if value is not None and math.isfinite(value) else None


def print_transfer(run: TransferRun, result: Result, task: str) -> None:
    """The short table at the end of a transfer run."""
    table = Table(title=f"{task}, {run.module.hparams['model']}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name in run.module.evaluated:
        value = finite(result.rows[-1].get(name))
        table.add_row(f"{METRIC_NAMES[name]}, last epoch", "-" if value is None else f"{value:.2f}")
    table.add_row("best epoch", f"{result.best:.2f} (epoch {result.best_epoch})")
    table.add_row("images", f"{result.evaluated} ({run.data.split})")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.1f} images/s")
    table.add_row("run folder", str(result.folder))
    Console().print(table)


def peak_memory(run: PreparedRun[Any, Any, Any, Any]) -> int | None:
    """The most memory that training took: the GPU's, or else this whole process's, where that is known."""
    if run.trainer.strategy.root_device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB elsewhere


def parameters(run: FitRun) -> dict[str, int]:
    """How many numbers are trained, and how many of them a prediction needs."""
    network = run.module.network
    backbone = network.backbone if isinstance(network, RegionModel) else network
    count = {"training": network, "inference": backbone}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in count.items()}


def feature_map(run: FitRun) -> str | None:
    """What the region head sees, in words; None where there is none."""
    network = run.module.network
    if not isinstance(network, RegionModel):
        return None
    found = network.feature_map
    return f"{found.name} ({found.layout}, {found.channels} channels)"


def print_result(run: FitRun, result: Result) -> None:
    """The short table at the end of a run."""
    table = Table(title=f"{run.config.model}, {run.config.mixer}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a path is only of use whole
    table.add_row(
        "accuracy, last epoch", f"{result.last:.2f} % of {result.evaluated} images ({run.data.split})"
    )
    table.add_row("accuracy, best epoch", f"{result.best:.2f} % (epoch {result.best_epoch})")
    table.add_row("time", f"{result.seconds:.1f} s")
    table.add_row("training speed", f"{result.images_per_second:,.0f} images/s")
    if feature_map(run) is not None:
        table.add_row("regions seen on", feature_map(run))
    table.add_row("run folder", str(result.folder))
    Console().print(table)
