"""Commands that read or write files: exports, predictions, checks of a folder."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

from recursivemix.export.export import export_checkpoint
from recursivemix.tasks.transfer_predict import predict

from .errors import usage_errors


@wraps(export_checkpoint)
def export(**options: Any) -> None:
    """Print what became of the keys."""
    with usage_errors():
        report = export_checkpoint(**options)
    report.print()


@wraps(predict)
def transfer_predict(**options: Any) -> None:
    """Print the number of images and the folder."""
    with usage_errors():
        count, out = predict(**options)
    print(f"{count} images: {out}")


def doctor(folder: Path, /, *, workers: int = 2, out: Path | None = None) -> None:
    """Check images for unreadable files, duplicates across splits, class counts, sizes and colour modes.

    Args:
        folder: Folder of images: train/CLASS and val/CLASS, or CLASS.
        workers: Number of threads that read images.
        out: File to write the diagnosis to, as JSON.
    """
    from recursivemix.data.doctor import examine, print_diagnosis
    from recursivemix.report.records import write_json

    with usage_errors():
        diagnosis = examine(folder, workers=workers)
        print_diagnosis(diagnosis)
        if out is not None:
            write_json(out, diagnosis.as_dict())
