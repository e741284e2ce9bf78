"""The numbers that methods are compared by, and how to read them from the records of a run."""

from __future__ import annotations

from typing import Any

from recursivemix.report.words import at
from recursivemix.tasks.transfer_settings import METRIC_NAMES

Metrics = dict[str, dict[str, Any]]
"""``metrics`` of ``comparison.json``: name, unit, whether higher is better, and whether it is drawn."""

EVALUATED: tuple[tuple[str, str, str, bool, tuple[str, ...], bool], ...] = (
    ("top5", "Top-5 accuracy", "%", True, ("accuracy", "top5"), False),
    ("nll", "Negative log-likelihood", "", False, ("nll",), True),
    ("brier", "Brier score", "", False, ("brier",), False),
    ("ece", "Calibration error (ECE)", "%", False, ("ece",), True),
    ("corruption_mean", "Accuracy under corruption", "%", True, ("corruption_mean",), True),
    ("occlusion_mean", "Accuracy under occlusion", "%", True, ("occlusion_mean",), False),
    ("scale_mean", "Accuracy on shrunk objects", "%", True, ("scale_mean",), False),
    ("multiple_top4", "Four images in one, found in the top 4", "%", True, ("multiple", "top4"), False),
    ("localisation", "Activation points into the right quarter", "%", True, ("localisation", "pointing"), False),
)


def metrics_of(record: dict[str, Any], pretrained: bool) -> Metrics:
    """Return the metrics of a comparison.

    Args:
        record: of one of its runs.
        pretrained: whether its runs start from backbones that were trained before.
    """
    metrics: Metrics = {}
    if "metrics" in record:
        for name in record["metrics"]:
            metrics[name] = _metric(f"{METRIC_NAMES[name]}, last epoch", drawn=name == record["score"])
    else:
        metrics["acc1_last"] = _metric("Accuracy, last epoch", drawn=True)
        metrics["acc1_best"] = _metric("Accuracy, best epoch")
        for name, title, unit, more, _, drawn in EVALUATED:
            metrics[name] = _metric(title, unit, more, drawn)
    if pretrained:
        metrics["pretrain_acc1"] = _metric("Accuracy of the backbone before", drawn=True)
    metrics["images_per_second"] = _metric("Training speed", "images/s")
    return metrics


def values_of(run: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    """Return the values of a run by metric, without those that were not measured.

    Args:
        run: in ``comparison.json``, without its ``values``.
        record: the run's own record; a run of an older ``comparison.json`` holds the same keys itself.
    """
    values: dict[str, Any] = dict(record.get("metrics", {}))
    values |= {name: record[name] for name in ("acc1_last", "acc1_best") if name in record}
    values |= {name: at(run, "evaluation", *path) for name, _, _, _, path, _ in EVALUATED}
    values["pretrain_acc1"] = at(run, "backbone", "acc1_last")
    values["images_per_second"] = run["cost"]["images_per_second"]
    return {name: value for name, value in values.items() if value is not None}


def _metric(name: str, unit: str = "%", higher_is_better: bool = True, drawn: bool = False) -> dict[str, Any]:
    return {"name": name, "unit": unit, "higher_is_better": higher_is_better, "drawn": drawn}
