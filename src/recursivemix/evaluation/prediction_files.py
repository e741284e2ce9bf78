"""Predictions as CSV, JSON or Parquet, and label maps as PNG files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from PIL import Image

from recursivemix.models.prediction import BoxPrediction, ClassPrediction, MapPrediction, Prediction
from recursivemix.models.trained import TrainedModel
from recursivemix.tasks.detection.metrics import detections_as_results
from recursivemix.training.whole import written_whole

from .predict import UnreadableImage

Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "json", "parquet")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that starts with one of these is a formula to spreadsheets."""
ROWS = 1000
"""Written to a Parquet file at a time."""


class PredictionWriter(Protocol):
    """Writes predictions one by one, so that memory does not grow."""

    def write(self, prediction: Prediction) -> None:
        """Add the prediction for one image."""

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Write what belongs at the end."""


class CsvWriter:
    """A table: one row per image, detected object, or class that occurs in a label map."""

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)
        self._columns: list[str] = []

    def write(self, prediction: Prediction) -> None:
        """Add the rows of one image."""
        for row in rows(prediction, spread_features=True):
            if not self._columns:
                self._columns = list(row)
                self._writer.writerow(self._columns)
            self._writer.writerow([safe_cell(value) for value in row.values()])

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Nothing follows the rows."""


class JsonWriter:
    """One object: detections in COCO's layout, with scores; otherwise a list of predictions."""

    def __init__(self, file: IO[str], models: Sequence[TrainedModel]) -> None:
        self._file, self._model = file, models[0]
        self._images: list[dict[str, Any]] = []
        self._written = 0
        self._detects = self._model.task in ("detection", "instance")
        about = {
            "task": self._model.task,
            "checkpoints": [str(model.path) for model in models],
            "classes": list(self._model.classes),
        }
        self._list = "annotations" if self._detects else "predictions"
        file.write(json.dumps(about)[:-1] + f', "{self._list}": [')

    def write(self, prediction: Prediction) -> None:
        """Add one image, or its detections."""
        items = self._detections(prediction) if isinstance(prediction, BoxPrediction) else [entry(prediction)]
        for item in items:
            self._file.write((",\n" if self._written else "\n") + json.dumps(item))
            self._written += 1

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Close the list; the images and categories of detections, and the unreadable files, follow it."""
        end: dict[str, Any] = {}
        if self._detects:
            ids = category_ids(self._model)
            end["images"] = self._images
            end["categories"] = [
                {"id": i, "name": name} for i, name in zip(ids, self._model.classes, strict=True)
            ]
        end["unreadable"] = [{"image": one.name, "reason": one.reason} for one in unreadable]
        self._file.write("\n], " + json.dumps(end)[1:] + "\n")

    def _detections(self, prediction: BoxPrediction) -> list[dict[str, Any]]:
        height, width = prediction.size
        number = len(self._images) + 1
        image = {"id": number, "file_name": prediction.name, "width": width, "height": height}
        self._images.append(image | features_of(prediction))
        import torch

        found = detections_as_results(
            number,
            prediction.boxes,
            torch.tensor(prediction.scores),
            prediction.indices,
            category_ids(self._model),
            prediction.masks,
        )
        for place, one in enumerate(found, start=self._written + 1):
            one |= {"id": place, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
        return found
