"""Data sets made of the rows of a source, each with a split and labels given as text: tables and shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .images import EncodedImages, EncodedSource, ImageData
from .settings import ImageSettings
from .splits import image_data

SEPARATOR = ";"
LABEL_NAMES = ("label", "labels", "class", "target")
"""Usual names of columns or fields with the label."""
SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Usual names of splits, and ours for each."""
Words = tuple[str, ...]
"""Labels of one image."""


class Row(NamedTuple):
    """A row with an image and labels."""

    number: int
    """In the source."""
    split: str
    labels: Words


def split_words(value: Any) -> Words:
    """Return the labels in a text, separated by ";", or in a list; None and NaN are no labels."""
    values = value if isinstance(value, (list, tuple)) else [value]
    texts = [str(value) for value in values if value is not None and value == value]
    words = texts if values is value else [word for text in texts for word in text.split(SEPARATOR)]
    return tuple(word.strip() for word in words if word.strip())


def rows_data(
    settings: ImageSettings,
    seed: int,
    source: EncodedSource,
    rows: Sequence[Row],
    bad: Mapping[int, str],
    *,
    classes: Sequence[str] = (),
    skipped: Sequence[str] = (),
) -> ImageData:
    """Make a data set of rows.

    Args:
        settings, seed: as in `image_data`.
        source: the encoded images.
        rows: the usable rows of "train", and of "val" or "test".
        bad: what is wrong with other rows, by number.
        classes: the labels, if they are known to be several per image (default: those that occur).
        skipped: what is wrong with the source apart from single rows.

    Raises:
        ValueError: there is a bad row or a label in one split only and ``skip_bad`` is not set, or there
            are fewer than two classes.
    """
    multi_label = bool(classes) or settings.multi_label or any(len(row.labels) > 1 for row in rows)
    bad = dict(bad)
    lone = lone_labels(rows, multi_label)
    for row in rows:
        label = next((label for label in row.labels if label in lone), None)
        if label is not None:
            bad[row.number] = f"the label {label!r} is in the {lone[label]} split only"
        elif not row.labels and not multi_label:
            bad[row.number] = "it has no label"
    left_out = [*skipped, *(f"{source.name(number)}: {reason}" for number, reason in sorted(bad.items()))]
    if left_out and not settings.skip_bad:
        more = f" ({len(left_out)} such)" if len(left_out) > 1 else ""
        raise ValueError(f"{left_out[0]}{more}; {source.fix}")
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if row.number not in bad:
            parts.setdefault(row.split, []).append(row)
    where = settings.table or settings.data
    if "train" not in parts:
        raise ValueError(f"{where} has no image of the train split")
    classes = classes or sorted_labels(parts["train"])
    if len(classes) < (1 if multi_label else 2):
        raise ValueError(
            f"{where} needs images of at least two classes, got {', '.join(classes) or 'none'}"
        )
    images = {
        split: EncodedImages(
            source, label_tensor(part, classes, multi_label), torch.tensor([row.number for row in part])
        )
        for split, part in parts.items()
    }
    return image_data(settings, seed, tuple(classes), images, left_out)


def sorted_labels(rows: Sequence[Row]) -> list[str]:
    """Return all labels, sorted; whole numbers by their value."""
    labels = {label for row in rows for label in row.labels}
    numbers = all(is_number(label) for label in labels)
    # "1" and "01" are two labels of one value, and the order of a set differs between processes.
    return sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)


def is_number(label: str) -> bool:
    """Tell whether a label is a whole number; Python refuses to convert thousands of digits."""
    return label.isdecimal() and len(label) < 20


def lone_labels(rows: Sequence[Row], multi_label: bool) -> dict[str, str]:
    """Return the labels that are missing from a split that needs them, with the only split that has them.

    The evaluation split must not have a label that is not trained on; with single labels, it must have all.
    """
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.split, set()).update(row.labels)
    evaluation = next((split for split in labels if split != "train"), None)
    if evaluation is None or "train" not in labels:
        return {}
    lone = dict.fromkeys(labels[evaluation] - labels["train"], evaluation)
    return lone if multi_label else lone | dict.fromkeys(labels["train"] - labels[evaluation], "train")


def label_tensor(rows: Sequence[Row], classes: Sequence[str], multi_label: bool) -> Tensor:
    """Return (N,) int64 class indices, or (N, K) uint8 multi-hot."""
    index_of = {name: index for index, name in enumerate(classes)}
    if not multi_label:
        return torch.tensor([index_of[row.labels[0]] for row in rows], dtype=torch.long)
    tensor = torch.zeros(len(rows), len(classes), dtype=torch.uint8)
    for i, row in enumerate(rows):
        tensor[i, [index_of[label] for label in row.labels]] = 1
    return tensor
