"""Write the predictions of image files: a table, label maps and pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from recursivemix.data.atomic_write import atomic_write, write_text
from recursivemix.data.decode import as_rgb, open_image_file
from recursivemix.data.formats.folder import image_files
from recursivemix.data.printable import encodable
from recursivemix.evaluation.predict import UnreadableImage
from recursivemix.mixing import DenseTarget
from recursivemix.models.prediction import BoxPrediction, ClassPrediction, MapPrediction, Prediction
from recursivemix.models.trained import TrainedModel, load
from recursivemix.training.devices import check_device, device_type
from recursivemix.training.settings import Device

from .cells import write_picture
from .names import TOP_K
from .prediction_table import (
    FORMATS,
    CsvTable,
    JsonTable,
    ParquetTable,
    PredictionTable,
    columns_of,
)
from .predictions import confident, drawn

T = TypeVar("T")
MOST_CLASSES = 254
"""In a label map of bytes, where 0 and 255 are no class."""


def load_all(checkpoints: list[Path], device: Device) -> list[TrainedModel]:
    """Load checkpoints to a device."""
    check_device(device)
    models = [load(path) for path in checkpoints]
    for model in models:
        model.to(device_type(device))
    return models


def check_outputs(
    models: list[TrainedModel],
    kind: str,
    out: Path | None,
    features: bool,
    maps: Path | None,
    pictures: Path | None,
    top_k: int,
) -> None:
    """Raise ValueError for options that do not go together, or an output that exists."""
    if not models:
        raise ValueError("--checkpoint: name at least one")
    task = models[0].task
    if kind not in FORMATS:
        raise ValueError(f"--format, or the ending of --out, must be csv, json or parquet, got {kind!r}")
    if kind == "parquet" and out is None:
        raise ValueError("--format parquet needs a file: add --out FILE")
    if out is not None and out.exists():
        raise ValueError(f"{out} already exists: name a new file with --out")
    if top_k != TOP_K and task != "classification":
        raise ValueError(f"--top-k is for classification, and {models[0].path} is of {task}: leave it out")
    if features and task != "classification" and kind != "json":
        raise ValueError(f"--features of {task} needs --format json: its tables have no row per image")
    if maps is not None and task != "segmentation":
        raise ValueError(f"--maps is for segmentation, and {models[0].path} is of {task}")
    if maps is not None and len(models[0].classes) > MOST_CLASSES:
        raise ValueError(f"--maps holds up to {MOST_CLASSES} classes, got {len(models[0].classes)}")
    if pictures is not None and task == "classification":
        raise ValueError(f"--pictures is for detection and segmentation, and {models[0].path} is of {task}")
    for option, folder in (("--maps", maps), ("--pictures", pictures)):
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{option}: {folder} is not an empty folder")


def find_images(sources: list[str]) -> tuple[list[Path], Path | None]:
    """Return the files of ``--images``, and the folder that their names are relative to, if any."""
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        if source == "-":
            files += [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        elif path.is_dir():
            files += image_files(path, "--images:")
        elif path.exists():
            files.append(path)
        else:
            raise ValueError(f"--images: there is no file or folder {path}")
    if not files:
        raise ValueError("--images: name files, a folder, or - with file names on standard input")
    alone = Path(sources[0]) if len(sources) == 1 and sources[0] != "-" else None
    return files, alone if alone is not None and alone.is_dir() else None


def output_names(files: list[Path], root: Path | None) -> list[str]:
    """Return a different name for each image's own outputs, without ending.

    It is the image's path below ``root``, else its file name; with its ending, or a number, if taken.
    """
    names: list[str] = []
    taken: set[str] = set()
    for number, file in enumerate(files, start=1):
        inside = Path(file.name) if root is None else file.relative_to(root)
        options = (str(inside.with_suffix("")), str(inside), f"{inside}-{number}")
        names.append(next(name for name in options if name not in taken))
        taken.add(names[-1])
    return names


@contextmanager
def open_table(
    models: list[TrainedModel], kind: str, out: Path | None, top_k: int, features: bool
) -> Iterator[PredictionTable]:
    """Open the table of predictions; a file appears under its name once it is complete."""
    columns = columns_of(models[0], top_k)
    try:
        with nullcontext() if out is None else atomic_write(out) as part:
            if kind == "parquet":
                assert part is not None
                yield ParquetTable(part, columns, features)
                return
            with (
                nullcontext(sys.stdout)
                if part is None
                else part.open("w", encoding="utf-8", newline="") as file
            ):
                yield JsonTable(file, models) if kind == "json" else CsvTable(file, columns)
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        raise ValueError(f"cannot write the predictions ({error}): name another place") from error


def write_predictions(
    results: Iterable[Prediction | UnreadableImage],
    files: list[Path],
    root: Path | None,
    table: PredictionTable,
    classes: tuple[str, ...],
    maps: Path | None,
    pictures: Path | None,
) -> list[UnreadableImage]:
    """Write the results of files to a table and to folders; return the files that could not be read."""
    unreadable: list[UnreadableImage] = []
    names = output_names(files, root)
    for file, name, result in zip(files, names, with_progress(results, len(files)), strict=True):
        shown = encodable(str(file if root is None else file.relative_to(root)))
        named = replace(result, name=shown)
        if isinstance(named, UnreadableImage):
            unreadable.append(named)
            continue
        table.write(named)
        if maps is not None and isinstance(named, MapPrediction):
            write_map(named, maps / f"{name}.png")
        if pictures is not None:
            draw(named, file, classes, pictures / f"{name}.png")
    table.finish(unreadable)
    return unreadable


def with_progress(results: Iterable[T], total: int) -> Iterable[T]:
    """Yield results; draw a progress bar on standard error if it is a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(results, "predicting", total, console=console, transient=True, disable=hidden)


def write_map(prediction: MapPrediction, path: Path) -> None:
    """Write a label map as ADE20K has them: 1 + class at every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((prediction.label_map + 1).byte().numpy()).save(path)


def write_class_names(classes: tuple[str, ...], folder: Path) -> None:
    """Write the class names of label maps, one per line."""
    lines = [encodable(" ".join(name.splitlines())) for name in classes]
    write_text(folder / "classes.txt", "\n".join(lines) + "\n")


def draw(prediction: Prediction, file: Path, classes: tuple[str, ...], path: Path) -> None:
    """Draw a prediction over its image."""
    assert not isinstance(prediction, ClassPrediction)
    with open_image_file(file) as source:
        image = as_rgb(source)
    if isinstance(prediction, BoxPrediction):
        objects = DenseTarget(prediction.boxes, prediction.indices, prediction.masks)
        target, scores = confident(objects, torch.tensor(prediction.scores))
    else:
        target, scores = prediction.label_map, None
    write_picture(drawn(image, target, scores, classes), path)
