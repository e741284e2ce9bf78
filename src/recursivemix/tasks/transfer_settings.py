"""Names of what is measured."""

from __future__ import annotations

from .settings import DetectionSettings, InstanceSettings, SegmentationSettings, TransferSettings

TransferConfig, DetectionConfig = TransferSettings, DetectionSettings
InstanceConfig, SegmentationConfig = InstanceSettings, SegmentationSettings
METRIC_NAMES = {
    "ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "aps": "box AP, small", "apm": "box AP, medium",
    "apl": "box AP, large", "segm_ap": "mask AP", "segm_ap50": "mask AP50", "segm_ap75": "mask AP75",
    "segm_aps": "mask AP, small", "segm_apm": "mask AP, medium", "segm_apl": "mask AP, large",
    "miou": "mIoU", "macc": "mAcc", "aacc": "aAcc",
}  # fmt: skip
"""What is measured, in words; all in percent."""
