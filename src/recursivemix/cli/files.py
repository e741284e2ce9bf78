"""Commands that read or write files: exports, predictions, checks of a folder."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path
from typing import Any

from recursivemix.data.names import Source
from recursivemix.data.printable import printable
from recursivemix.data.settings import ImageSettings
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

    It also prints what mixing changed on data sets with about as many images per class.

    Args:
        folder: Folder of images: train/CLASS and val/CLASS, or CLASS.
        workers: Number of threads that read images.
        out: File to write the diagnosis to, as JSON.
    """
    from recursivemix.data.atomic_write import write_json
    from recursivemix.data.diagnosis import print_diagnosis
    from recursivemix.data.doctor import examine
    from recursivemix.tasks.memorization import measured_near

    with usage_errors():
        diagnosis = examine(folder, workers=workers)
        print_diagnosis(diagnosis)
        classes = diagnosis.counts.get("train") or diagnosis.counts.get("all", {})
        counts = [count for count in classes.values() if count]
        if counts:
            print("mixing: it helps networks that memorize their training images; fit --mixer none tells")
            print("\n".join(measured_near(sum(counts) / len(counts))))
        if out is not None:
            write_json(out, diagnosis.as_dict())


def pack(
    *,
    out: Path,
    data: Path | None = None,
    dataset: Source = "auto",
    table: Path | None = None,
    download: bool = False,
    skip_bad: bool = False,
    size: int | None = None,
    quality: int = 90,
    raw: bool | None = None,
    workers: int = 2,
) -> None:
    """Write a data set into one file, which is read faster: fit --data FILE.

    Args:
        out: File to write.
        data: Folder of images, or another data set that fit reads.
        dataset: Format of --data (default: auto, which detects it).
        table: CSV or Parquet file with one row per image; paths in it are relative to --data.
        download: Allow downloads of data sets.
        skip_bad: Leave out and list images that cannot be read.
        size: Largest shorter side in pixels; larger images are reduced to it (default: keep the size).
        quality: Quality of JPEG, 1 to 100. JPEG files that keep their size are copied.
        raw: Store pixels instead of JPEG: larger, and faster still (default: for images of
            up to 64 pixels).
        workers: Number of threads.
    """
    from recursivemix.data.pack import write_pack

    with usage_errors():
        settings = ImageSettings(
            data=data, dataset=dataset, table=table, download=download, skip_bad=skip_bad
        )
        packed = write_pack(settings, out, size=size, quality=quality, raw=raw, workers=workers)
    for image in packed.skipped:
        print(f"left out: {image}", file=sys.stderr)
    print(f"{out}: {packed.images} images, {packed.size / 2**20:.1f} MiB")
