"""Predictions as CSV, JSON or Parquet, written one by one so that memory does not grow."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, get_args

import torch

from recursivemix.data.atomic_write import finite
from recursivemix.data.printable import encodable
from recursivemix.evaluation.predict import UnreadableImage
from recursivemix.models.prediction import BoxPrediction, ClassPrediction, Prediction
from recursivemix.models.trained import TrainedModel
from recursivemix.tasks.detection.metrics import detections_as_results

from .names import Format
from .safe_cell import safe_cell

FORMATS: tuple[str, ...] = get_args(Format)
ROWS = 1000
"""Rows of a Parquet file that are written together."""


class CsvTable:
    """One row per image, per detected object, or per class that occurs in a label map.

    The columns are named without those of features.
    """

    def __init__(self, file: IO[str], columns: Sequence[str]) -> None:
        self._writer = csv.writer(file)  # opened with newline=""
        self._columns: Sequence[str] | None = columns

    def write(self, prediction: Prediction) -> None:
        """Add the rows of one image; the elements of its features get a column each."""
        features = {} if prediction.features is None else enumerate(prediction.features.tolist())
        more = {f"feature_{i}": value for i, value in features}
        self._write_header(more)
        for row in rows(prediction):
            self._writer.writerow([safe_cell(value) for value in (row | more).values()])

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Write the header of a table without rows."""
        self._write_header(())

    def _write_header(self, more: Any) -> None:
        if self._columns is not None:
            self._writer.writerow([*self._columns, *more])
            self._columns = None


class JsonTable:
    """One object: detections in COCO's layout with scores, or a list of predictions."""

    def __init__(self, file: IO[str], models: Sequence[TrainedModel]) -> None:
        self._file, self._model = file, models[0]
        self._images: list[dict[str, Any]] = []
        self._count = 0
        about = {
            "task": self._model.task,
            "checkpoints": [str(model.path) for model in models],
            "classes": list(self._model.classes),
        }
        self._category_ids = (
            category_ids(self._model) if self._model.task in ("detection", "instance") else []
        )
        kind = "annotations" if self._category_ids else "predictions"
        file.write(f'{json.dumps(about)[:-1]}, "{kind}": [')

    def write(self, prediction: Prediction) -> None:
        """Add the prediction, or the detections, of one image."""
        features = {} if prediction.features is None else {"features": prediction.features.tolist()}
        if isinstance(prediction, BoxPrediction):
            items = self._detections(prediction, features)
        elif isinstance(prediction, ClassPrediction):
            values = {"labels": prediction.labels, "probabilities": prediction.probabilities}
            items = [{"image": prediction.name} | values | features]
        else:
            items = [{"image": prediction.name, "shares": prediction.shares} | features]
        for item in items:
            self._file.write(",\n" if self._count else "\n")
            self._file.write(json.dumps(finite(item)))
            self._count += 1

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Close the list; images and categories of detections follow, then the unreadable files."""
        rest: dict[str, Any] = {}
        if self._category_ids:
            rest["images"] = self._images
            pairs = zip(self._category_ids, self._model.classes, strict=True)
            rest["categories"] = [{"id": number, "name": name} for number, name in pairs]
        rest["unreadable"] = [{"image": one.name, "reason": one.reason} for one in unreadable]
        self._file.write(f"\n], {json.dumps(rest)[1:]}\n")

    def _detections(self, prediction: BoxPrediction, features: dict[str, Any]) -> list[dict[str, Any]]:
        height, width = prediction.size
        image = len(self._images) + 1
        about = {"id": image, "file_name": prediction.name, "width": width, "height": height}
        self._images.append(about | features)
        scores = torch.tensor(prediction.scores)
        found = detections_as_results(
            image, prediction.boxes, scores, prediction.indices, self._category_ids, prediction.masks
        )
        if prediction.masks is None:
            areas = [one["bbox"][2] * one["bbox"][3] for one in found]
        else:
            areas = prediction.masks.flatten(1).sum(1, dtype=torch.float64).tolist()
        return [
            one | {"id": number, "area": area, "iscrowd": 0}
            for number, (one, area) in enumerate(zip(found, areas, strict=True), start=self._count + 1)
        ]


class ParquetTable:
    """The rows of `CsvTable`; features are one column of lists. Raises ValueError without pyarrow."""

    def __init__(self, path: Path, columns: Sequence[str], features: bool) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise ValueError("--format parquet needs pyarrow: pip install pyarrow") from error
        text = [name for name in columns if name == "image" or name.startswith("label")]
        kinds = {name: pa.string() if name in text else pa.float64() for name in columns}
        if features:
            kinds["features"] = pa.list_(pa.float32())
        self._schema = pa.schema(list(kinds.items()))
        self._make_table = pa.Table.from_pylist
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, prediction: Prediction) -> None:
        """Add the rows of one image."""
        features = {} if prediction.features is None else {"features": prediction.features.tolist()}
        self._rows += [row | features for row in rows(prediction)]
        if len(self._rows) >= ROWS:
            self._flush()

    def finish(self, unreadable: Sequence[UnreadableImage]) -> None:
        """Write the last rows and close the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._make_table(self._rows, schema=self._schema))
        self._rows.clear()


PredictionTable = CsvTable | JsonTable | ParquetTable


def columns_of(model: TrainedModel, top_k: int) -> list[str]:
    """Names of the columns of `rows`."""
    if model.task == "classification":
        places = range(1, min(top_k, len(model.classes)) + 1)
        return ["image", *(name for k in places for name in (f"label_{k}", f"probability_{k}"))]
    if model.task == "segmentation":
        return ["image", "label", "share"]
    return ["image", "label", "score", "x1", "y1", "x2", "y2"]


def rows(prediction: Prediction) -> list[dict[str, Any]]:
    """The rows of a table for one image, without features; their text can be encoded."""
    image: dict[str, Any] = {"image": encodable(prediction.name)}
    if isinstance(prediction, ClassPrediction):
        pairs = zip(prediction.labels, prediction.probabilities, strict=True)
        for k, (label, probability) in enumerate(pairs, start=1):
            image |= {f"label_{k}": encodable(label), f"probability_{k}": probability}
        return [image]
    if isinstance(prediction, BoxPrediction):
        objects = zip(prediction.labels, prediction.scores, prediction.boxes.tolist(), strict=True)
        sides = ("x1", "y1", "x2", "y2")
        return [
            image | {"label": encodable(label), "score": score} | dict(zip(sides, box, strict=True))
            for label, score, box in objects
        ]
    return [
        image | {"label": encodable(label), "share": share} for label, share in prediction.shares.items()
    ]


def category_ids(model: TrainedModel) -> list[int]:
    """COCO's id of each class: the data set's own, else 1 to K."""
    ids = (model.settings.get("data") or {}).get("category_ids")
    return list(ids or range(1, len(model.classes) + 1))
