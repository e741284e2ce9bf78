"""Names of the metrics of each task; all but losses are in percent."""

METRIC_NAMES = {
    "acc1": "Accuracy", "acc_clean": "Accuracy on unmixed training images", "val_loss": "Evaluation loss",
    "ap": "box AP", "ap50": "box AP50", "ap75": "box AP75", "aps": "box AP, small", "apm": "box AP, medium",
    "apl": "box AP, large", "segm_ap": "mask AP", "segm_ap50": "mask AP50", "segm_ap75": "mask AP75",
    "segm_aps": "mask AP, small", "segm_apm": "mask AP, medium", "segm_apl": "mask AP, large",
    "miou": "mIoU", "macc": "mAcc", "aacc": "aAcc",
}  # fmt: skip
