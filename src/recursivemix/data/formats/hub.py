"""Image data sets of the Hugging Face hub, or in its file formats, through the ``datasets`` library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recursivemix.data.images import EncodedImages, ImageData, ImageFormat
from recursivemix.data.printable import one_line
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import SPLIT_OPTIONS, image_data

EXTRA = "pip install 'recursivemix[hub]'"
# Names of evaluation splits on the hub, in order of preference, and the name of our split for each.
EVALUATION = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")
FIX = "filter such rows out and save the rest with save_to_disk"


class HubRows:
    """Encoded images in a column of a ``datasets.Dataset``, by row; see `EncodedSource`."""

    fix = FIX
    blocks: Tensor | None = None

    def __init__(self, dataset: Any, column: str, split: str) -> None:
        # As stored: the library would apply the EXIF orientation, and download images stored as URLs.
        self.dataset = (
            dataset.with_format(None)
            .select_columns([column])
            .cast_column(column, library().Image(decode=False))
        )
        self.column = column
        self.split = split

    def __getitem__(self, row: int) -> Path | bytes | None:
        stored = self.dataset[row][self.column]
        if stored is None:
            return None
        content: bytes | None = stored["bytes"]
        return Path(stored["path"]) if content is None else content

    def name(self, row: int) -> str:
        """Return the position of an image in its data set: NAME[SPLIT][ROW]."""
        return f"{self.split}[{row}]"


def hugging_face(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open a data set with an image column and a column of class labels.

    ``data`` is a folder, made by ``save_to_disk`` or of files that ``load_dataset`` knows (images or
    parquet); else a name on the hub, "cifar100" or "owner/name", or with a configuration
    "owner/name:config". Without ``download`` the network is not used.

    Raises:
        ValueError: ``datasets`` is not installed, or the data set is not there or lacks such columns or
            splits.
    """
    name = str(settings.data)
    splits = load_splits(name, settings.download)
    first = "train" if "train" in splits else next(iter(splits))
    if first != "train" and len(splits) > 1:
        raise ValueError(f"{name} has no split 'train', but {', '.join(splits)}: save it with one")
    image, label = find_columns(f"{name}[{first}]", splits[first].features)
    classes = tuple(splits[first].features[label].names)
    others = [s for s in EVALUATION if s in splits and s != first] if settings.holdout is None else []
    second = next((s for s in others if _has_labels(splits[s], label)), None)
    if second is not None:
        other = splits[second].features
        if (
            find_columns(f"{name}[{second}]", other) != (image, label)
            or tuple(other[label].names) != classes
        ):
            raise ValueError(
                f"{first} and {second} of {name} differ in their columns or classes: save them alike"
            )
    images = {}
    for part in (first, second):
        if part is not None:
            source = f"{name}[{part}]"
            labels = _checked_labels(source, splits[part], label, classes)
            rows = HubRows(splits[part], image, source)
            images["train" if part == first else EVALUATION[part]] = EncodedImages(rows, labels)
    return image_data(settings, seed, classes, images)


def library() -> Any:
    """Import the ``datasets`` library; it has no types and is an optional dependency."""
    try:
        return import_module("datasets")
    except ImportError as error:
        raise ValueError(f"--dataset hf needs the library datasets: {EXTRA}") from error


def load_splits(name: str, download: bool, stream: bool = False) -> dict[str, Any]:
    """Load the splits of a data set, by name; with ``stream`` as ``datasets.IterableDataset``."""
    datasets = library()
    folder = Path(name).expanduser()
    local = folder.exists()
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"there is no folder {name}, and a name on the hub is NAME or OWNER/NAME")
    if local and not download:
        _refuse_addresses(folder)
    options = {"streaming": True} if stream else {}
    try:
        with _network(download):
            if not local:
                path, _, config = name.partition(":")
                loaded: Any = datasets.load_dataset(path, config or None, **options)
            elif (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(str(folder), **options)
    except Exception as error:  # of three libraries: not there, no network, no access, broken files ...
        if local:
            hint = "it must be made by save_to_disk, or hold images in class folders or parquet files"
        elif download:
            hint = "check the name and the network; choose a configuration with NAME:CONFIG"
        else:
            hint = "only earlier downloads were searched: get it with --download"
        raise ValueError(f"cannot load the data set {name}: {one_line(error)}; {hint}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _refuse_addresses(folder: Path) -> None:
    """Raise ValueError if the card of a folder names data files on the network.

    The offline switches of the libraries do not stop such downloads.
    """
    for card in (folder / "README.md", folder / ".huggingface.yaml"):
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        header = text.split("\n---", 1)[0] if card.suffix == ".md" else text
        address = re.search(r"^[\s-]*((data_files|path)\s*:)?[\s\[\"'-]*(\w+://\S+)", header, re.MULTILINE)
        if address is not None:
            raise ValueError(
                f"{card} takes its data from {address[3]}: get them with --download, or name local files "
                f"there"
            )


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Disable network access of the libraries inside the context, unless it is allowed.

    Sets their offline switches, which they read from the environment at import: `datasets` 5 ignores
    ``DownloadConfig(local_files_only=True)``.
    """
    places = [library().config, import_module("huggingface_hub").constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        if not allowed:
            for place in places:
                place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def find_columns(name: str, features: Any) -> tuple[str, str]:
    """Return the names of the image and of the label column."""
    datasets = library()
    return (
        _column(name, features, datasets.Image, IMAGE_NAMES, "images (the feature Image)", "cast_column"),
        _column(
            name, features, datasets.ClassLabel, LABEL_NAMES, "labels (ClassLabel)", "class_encode_column"
        ),
    )


def _column(
    name: str, features: Any, kind: type, preferred: tuple[str, ...], what: str, method: str
) -> str:
    fitting: list[str] = [column for column, feature in features.items() if isinstance(feature, kind)]
    for column in preferred:
        if column in fitting:
            return column
    if len(fitting) == 1:
        return fitting[0]
    kinds = {
        k: getattr(feature, "dtype", None) or type(feature).__name__ for k, feature in features.items()
    }
    columns = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
    if fitting:
        raise ValueError(
            f"{name} has several columns of {what}, {', '.join(fitting)}: rename the right one to "
            f"{preferred[0]!r} with rename_column, and save it with save_to_disk"
        )
    raise ValueError(
        f"{name} has no column of {what}, but {columns}: make one with the library's {method}, and save it "
        "with save_to_disk"
    )


def _labels(dataset: Any, column: str) -> list[int | None]:
    labels: list[int | None] = dataset.with_format(None).select_columns([column])[:][column]
    return labels


def _has_labels(dataset: Any, column: str) -> bool:
    """Tell whether a split has labels: test splits on the hub often hold -1 or nothing in every row."""
    return column in dataset.features and any(v not in (None, -1) for v in _labels(dataset, column))


def _checked_labels(source: str, dataset: Any, column: str, classes: tuple[str, ...]) -> Tensor:
    """Return the (N,) int64 class indices of a split."""
    labels = _labels(dataset, column)
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < len(classes):
            raise ValueError(f"{source}[{row}] has the label {label} of {len(classes)} classes: {FIX}")
    if len(classes) < 2 or not labels:
        raise ValueError(
            f"{source} needs images of at least two classes, got {len(labels)} of {len(classes)}"
        )
    return torch.tensor(labels)


def _is_saved_dataset(settings: ImageSettings) -> bool:
    names = ("dataset_dict.json", "dataset_info.json")
    return settings.data is not None and any((settings.data / name).is_file() for name in names)


HUB = ImageFormat(open=hugging_face, detect=_is_saved_dataset, options=SPLIT_OPTIONS)
