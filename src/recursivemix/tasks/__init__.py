"""The tasks: classification, detection, instance and semantic segmentation. Standard library only."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recursivemix.training.settings import RunSettings

TASKS = {
    "classification": "recursivemix.tasks.settings:ClassificationSettings",
    "detection": "recursivemix.tasks.settings:DetectionSettings",
    "instance": "recursivemix.tasks.settings:InstanceSettings",
    "segmentation": "recursivemix.tasks.settings:SegmentationSettings",
}
"""The settings of each task, as ``module:class``."""
METRIC_NAMES = {
    "acc1": "accuracy", "acc_clean": "accuracy, unmixed training images", "val_loss": "loss",
    "loss_clean": "loss, unmixed training images",
    "map": "mAP", "map_clean": "mAP, unmixed training images",
    "f1_micro": "F1, micro", "f1_macro": "F1, macro",
    "ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "aps": "box AP, small", "apm": "box AP, medium",
    "apl": "box AP, large", "segm_ap": "mask AP", "segm_ap50": "mask AP50", "segm_ap75": "mask AP75",
    "segm_aps": "mask AP, small", "segm_apm": "mask AP, medium", "segm_apl": "mask AP, large",
    "miou": "mIoU", "macc": "mAcc", "aacc": "aAcc",
}  # fmt: skip
"""Names of the metrics of all tasks; all are in percent, except the losses."""


def settings_class(task: str) -> type[RunSettings]:
    """Return the settings class of a task."""
    kind: type[RunSettings] = resolve_name(TASKS[task])
    return kind


def command_of(task: str) -> str:
    """Return the command that trains a task."""
    return "fit" if task == "classification" else f"transfer {task}"
