"""The numbers that methods are compared by, and how to read them from the records of a run."""

from __future__ import annotations

from math import isfinite
from typing import Any

from recursivemix.evaluation.probes import compared_metrics
from recursivemix.report.words import at, heading
from recursivemix.tasks import METRIC_NAMES

Metrics = dict[str, dict[str, Any]]
"""``metrics`` of ``comparison.json``: name, unit, whether higher is better, and whether it is drawn."""


def metrics_of(record: dict[str, Any], pretrained: bool) -> Metrics:
    """Return the metrics of a comparison.

    Args:
        record: of one of its runs.
        pretrained: whether its runs start from backbones that were trained before.
    """
    metrics: Metrics = {}
    if record.get("score", "acc1") == "acc1":
        metrics["acc1_last"] = _metric("Accuracy, last epoch", drawn=True)
        metrics["acc1_best"] = _metric("Accuracy, best epoch")
        for probed in compared_metrics():
            about = _metric(probed.title, probed.unit, probed.higher_is_better, probed.drawn)
            metrics[probed.name] = about | {"bounds": list(probed.bounds)}
    else:
        for name in record["metrics"]:
            title = f"{heading(METRIC_NAMES[name])}, last epoch"
            is_loss = "loss" in name
            drawn = name == record["score"]
            metrics[name] = _metric(title, "" if is_loss else "%", not is_loss, drawn)
    if pretrained:
        metrics["pretrain_acc1"] = _metric("Accuracy of the backbone before", drawn=True)
    metrics["images_per_second"] = _metric("Training speed", "images/s")
    return metrics


def values_of(run: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    """Return the values of a run by metric, without those that were not measured or are not finite.

    Args:
        run: in ``comparison.json``, without its ``values``.
        record: the run's own record; a run of an older ``comparison.json`` holds the same keys itself.
    """
    values: dict[str, Any]
    if record.get("score", "acc1") == "acc1":
        last, best = (record.get(f"score_{when}", record.get(f"acc1_{when}")) for when in ("last", "best"))
        values = {"acc1_last": last, "acc1_best": best}
        values |= {probed.name: probed.read(run["evaluation"]) for probed in compared_metrics()}
    else:
        values = dict(record["metrics"])
    values["pretrain_acc1"] = at(run, "backbone", "acc1_last")
    values["images_per_second"] = run["cost"]["images_per_second"]
    return {name: value for name, value in values.items() if value is not None and isfinite(value)}


def _metric(
    name: str, unit: str = "%", higher_is_better: bool = True, drawn: bool = False
) -> dict[str, Any]:
    return {"name": name, "unit": unit, "higher_is_better": higher_is_better, "drawn": drawn}
