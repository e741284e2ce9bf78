"""Folders of images, one folder a class: found, checked and read.

Everything that can be seen from names alone is checked before any training: missing or empty folders,
splits that disagree on their classes. A file that cannot be read names itself when it is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageData
from recursivemix.models.create import SMALL_IMAGE

File = tuple[Path, int]
Item = TypeVar("Item")

# What Pillow raises for broken files of one format or another: SyntaxError for PNG, IndexError for GIF,
# TypeError and struct.error for TIFF.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names it."""


@contextmanager
def opened(source: Path | BytesIO, name: str, mend: str) -> Iterator[Image.Image]:
    """An image; whatever Pillow has against it becomes one error with its name and what to do."""
    try:
        with Image.open(source) as image:
            yield image
    except DECODING_ERRORS as error:
        raise UnreadableImageError(f"cannot read the image {name}: {reason(error)}; {mend}") from error


def reason(error: Exception) -> str:
    """What is wrong with an image, without its name: Pillow's and the system's words repeat the path."""
    if isinstance(error, UnidentifiedImageError):
        return "in no image format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def opened_file(path: Path) -> AbstractContextManager[Image.Image]:
    """An image file, as `opened`."""
    return opened(path, str(path), "mend or remove the file, or leave all such files out with --skip-bad")


def as_rgb(image: Image.Image) -> Tensor:
    """A picture of any mode as (3, H, W) uint8; decodes it, so whatever its file lacks is raised here."""
    if image.mode.startswith("I"):  # 16 bits of grey, which convert would cut off at 255
        grey: Tensor = (pil_to_tensor(image).int() & 0xFFFF) // 257
        return grey.byte().repeat(3, 1, 1)
    rgb: Tensor = pil_to_tensor(image.convert("RGB"))
    return rgb


class FolderImages:
    """Image files read on access, as RGB.

    Args:
        files: path and class index of every image.
    """

    def __init__(self, files: list[File]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        with opened_file(path) as image:
            return as_rgb(image), label

    def label(self, index: int) -> int:
        """The class index of one file."""
        return self.files[index][1]

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.files[index][0])


def image_folder(
    root: Path,
    *,
    val_split: float | None = None,
    image_size: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> ImageData:
    """The data set of a folder.

    Args:
        root: holds ``train/<class>`` and ``val/<class>`` or ``test/<class>``; or ``<class>`` folders alone,
            with ``val_split``.
        val_split: share of every class that is held out for evaluation, in (0, 1), where there is no
            ``val`` or ``test``.
        image_size: pixels a side for the network; None takes the images' own size up to 64, else 224.
        seed: of the held-out share.
        skip_bad: decode every file once, now, and leave out those that can't be read.

    Raises:
        ValueError: a folder that is missing, empty or inconsistent, or a class without a readable image;
            the message says which and what to do.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    has_train = (root / "train").is_dir()
    split = next((name for name in ("val", "test") if has_train and (root / name).is_dir()), None)
    classes, train = read_classes(root / "train" if has_train else root)
    evaluation: list[File] = []
    if split is None:
        if val_split is None:
            raise ValueError(
                f"{root} has no val or test folder: add one, or hold a share out with --val-split 0.2"
            )
        check_share(val_split)
    else:
        if val_split is not None:
            raise ValueError(
                f"{root} has a {split} folder, so --val-split has nothing to split: leave it out"
            )
        other, evaluation = read_classes(root / split)
        check_same_classes(root, classes, split, other)
    skipped: list[str] = []
    if skip_bad:
        train, evaluation = (_readable(files, classes, skipped) for files in (train, evaluation))
    if val_split is not None:
        train, evaluation = hold_out(train, classes, val_split, seed)
    return ImageData(
        train=FolderImages(train),
        evaluation=FolderImages(evaluation),
        classes=classes,
        image_size=image_size or _common_size(train),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
        split=split or "held out",
        skipped=tuple(skipped),
    )


def read_classes(folder: Path) -> tuple[tuple[str, ...], list[File]]:
    """Class names in order, and every image file below each of them with its class index."""
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise ValueError(f"{folder} must hold a folder for each of at least two classes, found {found}")
    files: list[File] = []
    for index, name in enumerate(names):
        paths = (folder / name).rglob("*")
        images = sorted(p for p in paths if p.suffix.lower() in IMG_EXTENSIONS and not p.is_dir())
        if not images:
            raise ValueError(
                f"the class folder {folder / name} holds no image ({', '.join(IMG_EXTENSIONS)})"
            )
        files += [(path, index) for path in images]
    return names, files


def check_same_classes(root: Path, classes: tuple[str, ...], split: str, other: tuple[str, ...]) -> None:
    """Refuse splits whose class folders differ."""
    if other != classes:
        missing, extra = sorted(set(classes) - set(other)), sorted(set(other) - set(classes))
        raise ValueError(
            f"train and {split} of {root} differ in their classes: only in train: "
            f"{_shorten(missing)}; only in {split}: {_shorten(extra)}"
        )


def check_share(share: float) -> None:
    """Refuse a share to hold out that leaves one side empty."""
    if not 0 < share < 1:
        raise ValueError(f"--val-split is a share of every class and must be in (0, 1), got {share}")


def hold_out(
    items: list[tuple[Item, int]], classes: tuple[str, ...], share: float, seed: int
) -> tuple[list[tuple[Item, int]], list[tuple[Item, int]]]:
    """Split off a share of every class, at least one image and never all; always the same for a seed.

    Args:
        items: whatever tells an image (its path, its row), with its class index.
        classes: their names.
        share: in (0, 1).
        seed: of the choice.
    """
    check_share(share)
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for index, name in enumerate(classes):
        own = [item for item in items if item[1] == index]
        if len(own) == 1:
            raise ValueError(f"class {name!r} has one image, which cannot be both trained on and held out")
        order: list[int] = torch.randperm(len(own), generator=generator).tolist()
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held += [own[i] for i in sorted(order[:count])]
        kept += [own[i] for i in sorted(order[count:])]
    return kept, held


def network_size(short_sides: list[int]) -> int:
    """Pixels a side for a network, of some images' short sides: their own up to `SMALL_IMAGE`, else 224."""
    return max(short_sides) if max(short_sides) <= SMALL_IMAGE else 224


def spread(count: int) -> range:
    """About 16 indices, spread evenly over ``count``: enough to judge a set's size by."""
    return range(0, count, max(1, count // 16))


def _common_size(files: list[File]) -> int:
    sizes = []
    for index in spread(len(files)):
        with opened_file(files[index][0]) as image:
            sizes.append(min(image.size))
    return network_size(sizes)


def _readable(files: list[File], classes: tuple[str, ...], skipped: list[str]) -> list[File]:
    """The files that decode; the others are added to ``skipped``."""
    from recursivemix.data.doctor import unreadable  # which uses this module

    bad = dict(unreadable(files, workers=min(os.cpu_count() or 1, 8), progress=True))
    kept = [file for file in files if file[0] not in bad]
    for index in {label for _, label in files} - {label for _, label in kept}:
        path = next(path for path, label in files if label == index)
        raise ValueError(
            f"no image of the class {classes[index]!r} can be read, so --skip-bad leaves it empty: mend "
            f"its files or remove it from every split; the first is {path}: {bad[path]}"
        )
    skipped += [f"{path}: {reason}" for path, reason in bad.items()]
    return kept


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
