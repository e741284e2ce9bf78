"""Image sets of the Hugging Face hub, or in its formats, through the ``datasets`` library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageData

from .folder import UnreadableImageError, as_rgb, check_share, hold_out, network_size, opened, spread

EXTRA = "pip install 'recursivemix[hub]'"
# Names of splits on the hub, the best first, and which split of ours each is.
EVALUATION = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")


class HubImages:
    """Images of one split, decoded on access; picklable for loader workers.

    Args:
        dataset: a ``datasets.Dataset``.
        column: of the images.
        rows: which rows of it, and their class indices.
        source: what the rows are of, for messages.
    """

    def __init__(self, dataset: Any, column: str, rows: Sequence[tuple[int, int]], source: str) -> None:
        # As stored: the library would turn images by their EXIF orientation, which a folder's are not, and
        # fetch those that are stored as addresses.
        self.dataset = (
            dataset.with_format(None)
            .select_columns([column])
            .cast_column(column, _library().Image(decode=False))
        )
        self.column = column
        self.rows = rows
        self.source = source

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, label = self.rows[index]
        stored = self.dataset[row][self.column]
        if stored is None:
            raise UnreadableImageError(f"cannot read the image {self.name(index)}: there is none; {MEND}")
        content = Path(stored["path"]) if stored["bytes"] is None else BytesIO(stored["bytes"])
        with opened(content, self.name(index), MEND) as image:
            return as_rgb(image), label

    def label(self, index: int) -> int:
        """The class index of one row."""
        return self.rows[index][1]

    def name(self, index: int) -> str:
        """The image's place in its data set: NAME[SPLIT][ROW]."""
        return f"{self.source}[{self.rows[index][0]}]"


MEND = "filter such rows out and save the rest with save_to_disk"


def hugging_face(
    name: str,
    *,
    download: bool = False,
    val_split: float | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> ImageData:
    """A data set with an image column and a column of class labels.

    Args:
        name: a folder, made by ``save_to_disk`` or of files that ``load_dataset`` knows (images, parquet);
            else a name on the hub, "cifar100" or "owner/name", or with a configuration "owner/name:config".
        download: get it from the hub; else only what was downloaded before is used, without any network.
        val_split: share of every class that is held out for evaluation, in (0, 1), where there is no
            labelled validation or test split.
        image_size: pixels a side for the network; None takes the images' own size up to 64, else 224.
        seed: of the held-out share.

    Raises:
        ValueError: ``datasets`` is not installed, or the set is not there or has no such columns or splits;
            the message says which and what to do.
    """
    if val_split is not None:
        check_share(val_split)
    splits = _load(name, download)
    first = "train" if "train" in splits else next(iter(splits))
    if first != "train" and len(splits) > 1:
        raise ValueError(f"{name} has no split 'train', but {', '.join(splits)}: save it with one")
    image, label = _columns(f"{name}[{first}]", splits[first].features)
    classes = tuple(splits[first].features[label].names)
    rows = _labelled(f"{name}[{first}]", splits[first], label, classes)
    second = _evaluation(name, splits, first, label, val_split)
    if second != first:
        other = splits[second].features
        if _columns(f"{name}[{second}]", other) != (image, label) or tuple(other[label].names) != classes:
            raise ValueError(
                f"{first} and {second} of {name} differ in their columns or classes: save them alike"
            )
        held = _labelled(f"{name}[{second}]", splits[second], label, classes)
    else:
        assert val_split is not None
        rows, held = hold_out(rows, classes, val_split, seed)
    train = HubImages(splits[first], image, rows, f"{name}[{first}]")
    return ImageData(
        train=train,
        evaluation=HubImages(splits[second], image, held, f"{name}[{second}]"),
        classes=classes,
        image_size=image_size or network_size([min(train[i][0].shape[1:]) for i in spread(len(train))]),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
        split="held out" if second == first else EVALUATION[second],
    )


def _evaluation(name: str, splits: dict[str, Any], first: str, label: str, val_split: float | None) -> str:
    """The split to evaluate on; ``first``, the training split, if a share of it is to be held out."""
    for found in EVALUATION:
        if found != first and found in splits and _has_labels(splits[found], label):
            if val_split is None:
                return found
            raise ValueError(
                f"{name} has a {found} split, so --val-split has nothing to split: leave it out"
            )
    if val_split is None:
        raise ValueError(
            f"{name} has no labelled validation or test split, only {', '.join(splits)}: hold a share of "
            f"{first} out with --val-split 0.2"
        )
    return first


def _library() -> Any:
    """The ``datasets`` library, which has no types and need not be installed."""
    try:
        return import_module("datasets")
    except ImportError as error:
        raise ValueError(f"data sets of the hub need the library datasets: {EXTRA}") from error


def _load(name: str, download: bool) -> dict[str, Any]:
    """The splits of a data set by name."""
    datasets = _library()
    folder = Path(name).expanduser()
    local = folder.exists()
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ValueError(f"there is no folder {name}, and a name on the hub is NAME or OWNER/NAME")
    if local and not download:
        _refuse_addresses(folder)
    try:
        with _network(download):
            if not local:
                path, _, config = name.partition(":")
                loaded: Any = datasets.load_dataset(path, config or None)
            elif (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(str(folder))
    except Exception as error:  # of three libraries: not there, no network, no access, broken files ...
        if local:
            hint = "it must be made by save_to_disk, or hold images in class folders or parquet files"
        elif download:
            hint = "look at the name and the network; a configuration is chosen with NAME:CONFIG"
        else:
            hint = "only what was downloaded before was looked at: get it with --download"
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot load the data set {name}: {what}; {hint}") from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def _refuse_addresses(folder: Path) -> None:
    """A folder's card may name data files elsewhere, which no offline switch of the libraries keeps."""
    for card in (folder / "README.md", folder / ".huggingface.yaml"):
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        header = text.split("\n---", 1)[0] if card.suffix == ".md" else text
        address = re.search(r"^[\s-]*((data_files|path)\s*:)?[\s\[\"'-]*(\w+://\S+)", header, re.MULTILINE)
        if address is not None:
            raise ValueError(
                f"{card} takes its data from {address[3]}: get them with --download, or name files in the "
                "folder there"
            )


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the libraries off the network, unless it is allowed.

    By their offline switches, which are made for the environment and read at import: `datasets` 5 does not
    look at ``DownloadConfig(local_files_only=True)``.
    """
    places = [_library().config, import_module("huggingface_hub").constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        if not allowed:
            for place in places:
                place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Names of the image and of the label column."""
    datasets = _library()
    return (
        _column(name, features, datasets.Image, IMAGE_NAMES, "images (the feature Image)", "cast_column"),
        _column(
            name, features, datasets.ClassLabel, LABEL_NAMES, "labels (ClassLabel)", "class_encode_column"
        ),
    )


def _column(name: str, features: Any, kind: type, preferred: tuple[str, ...], what: str, mend: str) -> str:
    fitting: list[str] = [column for column, feature in features.items() if isinstance(feature, kind)]
    for column in preferred:
        if column in fitting:
            return column
    if len(fitting) == 1:
        return fitting[0]
    columns = ", ".join(f"{column} ({_kind(feature)})" for column, feature in features.items())
    if fitting:
        raise ValueError(
            f"{name} has several columns of {what}, {', '.join(fitting)}: name the one that is meant "
            f"{preferred[0]!r} with rename_column, and save it with save_to_disk"
        )
    raise ValueError(
        f"{name} has no column of {what}, but {columns}: make one with the library's {mend}, and save it "
        "with save_to_disk"
    )


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _labels(dataset: Any, column: str) -> list[int | None]:
    labels: list[int | None] = dataset.with_format(None).select_columns([column])[:][column]
    return labels


def _has_labels(dataset: Any, column: str) -> bool:
    """Test splits on the hub often come without: -1 or nothing in every row, or no such column."""
    return column in dataset.features and any(v not in (None, -1) for v in _labels(dataset, column))


def _labelled(source: str, dataset: Any, column: str, classes: tuple[str, ...]) -> list[tuple[int, int]]:
    """Row and class index of every image."""
    rows = []
    for row, label in enumerate(_labels(dataset, column)):
        if label is None or not 0 <= label < len(classes):
            raise ValueError(f"{source}[{row}] has the label {label} of {len(classes)} classes: {MEND}")
        rows.append((row, label))
    if len(classes) < 2 or not rows:
        raise ValueError(
            f"{source} has {len(rows)} images of {len(classes)} classes; there must be some, of at "
            "least two"
        )
    return rows
