"""Tables with one row per image, CSV or Parquet: paths or encoded bytes, and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from recursivemix.data.images import ImageData, ImageFormat
from recursivemix.data.rows import LABEL_NAMES, SPLITS, Row, Words, rows_data, split_words
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import SPLIT_OPTIONS

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "image_path")
TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Values of a column of 0 and 1, as text in lower case."""
FIX = "fix the row, or leave out all such rows with --skip-bad"


class ParquetCells(Sequence[Any]):
    """Cells of a ``pyarrow.ChunkedArray``; they stay in Arrow's memory, which loader workers share.

    Columns that are not used cost nothing in Python: they can be long lists of numbers.
    """

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: Any) -> Any:
        return self.column[row].as_py()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.column.to_pylist())


class TableRows:
    """Encoded images of a table, by row: bytes, or paths relative to a folder; see `EncodedSource`."""

    fix = FIX
    blocks: Tensor | None = None

    def __init__(self, table: Path, cells: Sequence[Any], folder: Path) -> None:
        self.table = table
        self.cells = cells
        self.folder = folder

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> Path | bytes | None:
        cell = self.cells[row]
        if isinstance(cell, dict):  # an image as the datasets library stores it
            cell = cell.get("bytes") or cell.get("path")
        return cell if isinstance(cell, bytes) else self.folder / str(cell) if cell else None

    def name(self, row: int) -> str:
        """Return the number of a row, counted from 1 after the header, and the path of its image."""
        content = self[row]
        return f"{self.table}, row {row + 1}" + (f" ({content})" if isinstance(content, Path) else "")


def open_table(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open the images of a table.

    A row has one label, or any number of them; see `ImageSettings` for the columns. A row without a usable
    image, label or split is an error, or left out and listed with ``skip_bad``.

    Raises:
        ValueError: the table cannot be read, lacks a column, or has a bad row.
    """
    path = settings.table
    assert path is not None
    columns = read_columns(path)
    image_column = _find_column(path, columns, "--image-column", settings.image_column, IMAGE_COLUMNS)
    source = TableRows(path, columns[image_column], settings.data or path.parent)
    asked: Sequence[str | None] = settings.label_column or [None]
    names = [_find_column(path, columns, "--label-column", name, LABEL_NAMES) for name in asked]
    marked = len(names) > 1  # columns of 0 and 1
    labels = _marked(columns, names) if marked else [split_words(value) for value in columns[names[0]]]
    splits: Sequence[Any] = ["train"] * len(source)
    if settings.split_column or "split" in columns:
        splits = columns[_find_column(path, columns, "--split-column", settings.split_column, ("split",))]
    rows, bad = usable_rows(source, splits, labels, settings.holdout is not None)
    return rows_data(settings, seed, source, rows, bad, classes=names if marked else ())


def read_columns(path: Path) -> dict[str, Sequence[Any]]:
    """Read a CSV, TSV or Parquet file as columns; another file raises ValueError."""
    if not path.is_file():
        raise ValueError(f"--table: there is no file {path}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _read_parquet(path)
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise ValueError("its name must end in .csv, .tsv or .parquet")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"--table {path} cannot be read: {' '.join(str(error).split())}") from error
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise ValueError(f"--table {path} has no rows below its header")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path}, row {number} has {len(row)} cells, but the header has {len(rows[0])}"
            )
    _check_names(path, rows[0])
    return {name: list(cells) for name, *cells in zip(*rows, strict=True)}


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if two columns have the same name."""
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"--table {path} has several columns {twice[0]!r}: rename or remove all but one")


def _read_parquet(path: Path) -> dict[str, Sequence[Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow: pip install 'recursivemix[hub]'") from error
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise ValueError(str(error)) from error
    _check_names(path, table.column_names)
    return dict(zip(table.column_names, map(ParquetCells, table.columns), strict=True))


def _find_column(
    path: Path, columns: dict[str, Sequence[Any]], flag: str, name: str | None, defaults: Sequence[str]
) -> str:
    """Return the named column, or the first default that exists."""
    if name is None:
        name = next((default for default in defaults if default in columns), None)
    if name is None or name not in columns:
        what = f"no column {name!r}" if name is not None else f"none of the columns {', '.join(defaults)}"
        raise ValueError(f"{path} has {what}; name one with {flag}: {', '.join(columns)}")
    return name


def _marked(columns: dict[str, Sequence[Any]], names: Sequence[str]) -> list[Words | None]:
    """Return the names of the columns that hold 1, for every row; None if one is neither 0 nor 1."""
    marks = [[TRUTH.get(str(value).strip().lower()) for value in columns[name]] for name in names]
    return [
        None if None in row else tuple(name for name, mark in zip(names, row, strict=True) if mark)
        for row in zip(*marks, strict=True)
    ]


def usable_rows(
    source: TableRows, splits: Sequence[Any], labels: Sequence[Words | None], train_only: bool
) -> tuple[list[Row], dict[int, str]]:
    """Return the usable rows of the splits that are used, and what is wrong with others, by row number.

    These splits are "train" and, unless ``train_only``, "val" or else "test".
    """
    names = [SPLITS.get(str(split).strip().lower()) for split in splits]
    used = {"train"} if train_only else {"train", "val" if "val" in names else "test"}
    rows, bad = [], {}
    for number, (name, words) in enumerate(zip(names, labels, strict=True)):
        if name is None:
            bad[number] = f"the split must be {', '.join(SPLITS)}; got {splits[number]!r}"
        if name not in used:
            continue
        content = source[number]
        if content is None:
            bad[number] = "it has no image"
        elif isinstance(content, Path) and not os.path.isfile(content):
            bad[number] = "the file does not exist"
        elif words is None:
            bad[number] = "the label columns must hold 0 or 1"
        else:
            rows.append(Row(number, name, words))
    return rows, bad


TABLE = ImageFormat(
    open=open_table,
    detect=lambda settings: settings.table is not None,
    options=SPLIT_OPTIONS
    | {"data", "image_column", "label_column", "split_column", "multi_label", "skip_bad"},
    needs="table",
)
