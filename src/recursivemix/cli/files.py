"""Commands that read or write files: exports, predictions, checks of a folder."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Any

from recursivemix.data.printable import printable
from recursivemix.export.export import export_checkpoint
from recursivemix.report.predict import Predicted, predict_files, predict_folder

from .errors import Failed, usage_errors


@wraps(export_checkpoint)
def export(**options: Any) -> None:
    """Print what became of the keys."""
    with usage_errors():
        report = export_checkpoint(**options)
    report.print()


@wraps(predict_files)
def predict(**options: Any) -> None:
    """Print the number of images and the unreadable files."""
    with usage_errors():
        predicted = predict_files(**options)
    report_predicted(predicted, options["out"])


@wraps(predict_folder)
def transfer_predict(**options: Any) -> None:
    """Print the number of images and the folder."""
    print("recursivemix transfer predict is now a part of recursivemix predict", file=sys.stderr)
    with usage_errors():
        predicted = predict_folder(**options)
    report_predicted(predicted, options["out"])


def report_predicted(predicted: Predicted, out: Path | None) -> None:
    """Print to standard error how many images were predicted, and which files could not be read.

    Raises:
        Failed: there are such files.
    """
    print(f"{predicted.images} images{f': {out}' if out else ''}", file=sys.stderr)
    for image in predicted.unreadable:
        print(printable(f"cannot read {image.name}: {image.reason}"), file=sys.stderr)
    if predicted.unreadable:
        total = predicted.images + len(predicted.unreadable)
        raise Failed(f"{len(predicted.unreadable)} of {total} images have no prediction")


def doctor(folder: Path, /, *, workers: int = 2, out: Path | None = None) -> None:
    """Check images for unreadable files, duplicates across splits, class counts, sizes and colour modes.

    Args:
        folder: Folder of images: train/CLASS and val/CLASS, or CLASS.
        workers: Number of threads that read images.
        out: File to write the diagnosis to, as JSON.
    """
    from recursivemix.data.diagnosis import print_diagnosis
    from recursivemix.data.doctor import examine
    from recursivemix.training.atomic_write import write_json

    with usage_errors():
        diagnosis = examine(folder, workers=workers)
        print_diagnosis(diagnosis)
        if out is not None:
            write_json(out, diagnosis.as_dict())
