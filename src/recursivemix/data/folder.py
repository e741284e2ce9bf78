"""Folders of images, one folder a class: found, checked and read.

Everything that can be seen from names alone is checked before any training: missing or empty folders,
splits that disagree on their classes. A file that cannot be read names itself when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

from recursivemix.models.create import SMALL_IMAGE

from .images import IMAGENET_MEAN, IMAGENET_STD, ImageData

File = tuple[Path, int]


class UnreadableImageError(ValueError):
    """An image file that cannot be decoded; the message names it."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file; whatever Pillow has against it becomes one error that names the file."""
    try:
        with Image.open(path) as image:
            yield image
    # SyntaxError: what Pillow raises for some broken PNG files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"cannot read the image {path}: {error}") from error


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
        with opened(path) as image:
            if image.mode.startswith("I"):  # 16 bits of grey, which convert would cut off at 255
                grey = (pil_to_tensor(image).int() & 0xFFFF) // 257
                return grey.byte().expand(3, -1, -1), label
            return pil_to_tensor(image.convert("RGB")), label

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.files[index][0])


def image_folder(
    root: Path, *, val_split: float | None = None, image_size: int | None = None, seed: int = 0
) -> ImageData:
    """The data set of a folder.

    Args:
        root: holds ``train/<class>`` and ``val/<class>`` or ``test/<class>``; or ``<class>`` folders alone,
            with ``val_split``.
        val_split: share of every class that is held out for evaluation, in (0, 1), where there is no
            ``val`` or ``test``.
        image_size: pixels a side for the network; None takes the images' own size up to 64, else 224.
        seed: of the held-out share.

    Raises:
        ValueError: a folder that is missing, empty or inconsistent; the message says which and what to do.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    has_train = (root / "train").is_dir()
    split = next((name for name in ("val", "test") if has_train and (root / name).is_dir()), None)
    classes, train = read_classes(root / "train" if has_train else root)
    if split is not None:
        if val_split is not None:
            raise ValueError(
                f"{root} has a {split} folder, so --val-split has nothing to split: leave it out"
            )
        other, evaluation = read_classes(root / split)
        if other != classes:
            missing, extra = sorted(set(classes) - set(other)), sorted(set(other) - set(classes))
            raise ValueError(
                f"train and {split} of {root} differ in their classes: only in train: "
                f"{_shorten(missing)}; only in {split}: {_shorten(extra)}"
            )
    elif val_split is None:
        raise ValueError(
            f"{root} has no val or test folder: add one, or hold a share out with --val-split 0.2"
        )
    else:
        train, evaluation = hold_out(train, classes, val_split, seed)
        split = "held out"
    return ImageData(
        train=FolderImages(train),
        evaluation=FolderImages(evaluation),
        classes=classes,
        image_size=image_size or _common_size(train),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
        split=split,
    )


def read_classes(folder: Path) -> tuple[tuple[str, ...], list[File]]:
    """Class names in order, and every image file below each of them with its class index."""
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise ValueError(f"{folder} must hold a folder for each of at least two classes, found {found}")
    files: list[File] = []
    for index, name in enumerate(names):
        images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
        if not images:
            raise ValueError(
                f"the class folder {folder / name} holds no image ({', '.join(IMG_EXTENSIONS)})"
            )
        files += [(path, index) for path in images]
    return names, files


def hold_out(
    files: list[File], classes: tuple[str, ...], share: float, seed: int
) -> tuple[list[File], list[File]]:
    """Split off a share of every class, at least one image and never all; always the same for a seed."""
    if not 0 < share < 1:
        raise ValueError(f"--val-split is a share of every class and must be in (0, 1), got {share}")
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for index, name in enumerate(classes):
        own = [file for file in files if file[1] == index]
        if len(own) < 2:
            raise ValueError(f"class {name!r} has one image, which cannot be both trained on and held out")
        order = torch.randperm(len(own), generator=generator).tolist()
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held += [own[i] for i in sorted(order[:count])]
        kept += [own[i] for i in sorted(order[count:])]
    return kept, held


def _common_size(files: list[File]) -> int:
    """The short side of small images, or 224; judged by a few files spread over the set."""
    sizes = []
    for path, _ in files[:: max(1, len(files) // 16)]:
        with opened(path) as image:
            sizes.append(min(image.size))
    return max(sizes) if max(sizes) <= SMALL_IMAGE else 224


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
