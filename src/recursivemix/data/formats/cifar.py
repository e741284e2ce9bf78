"""CIFAR-10 and CIFAR-100 from their official files, python or binary version, unpacked or not.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009);
https://www.cs.toronto.edu/~kriz/cifar.html describes the files.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from recursivemix.data.images import ImageData, ImageFormat, StackedImages
from recursivemix.data.settings import ImageSettings

Split = tuple[Tensor, Tensor]
"""(N, 3, 32, 32) uint8 images and (N,) int64 labels."""
PIXELS = 3 * 32 * 32
"""Bytes of an image in the binary version: 32x32 red, then green, then blue."""


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets."""

    name: str
    reader: type[torchvision.datasets.CIFAR10]
    """Torchvision's reader of the python version; it checks the MD5 sum of every file before unpickling."""
    binary_folder: str
    class_names: str
    """File of the class names in the binary version."""
    label_bytes: int
    """Bytes before the pixels of a record of the binary version; the last is the (fine) label."""
    mean: tuple[float, float, float]
    """Mean of all training pixels, RGB in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation over all training pixels, not the mean of the images' deviations."""

    @property
    def sums(self) -> dict[str, str]:
        """MD5 sums of the files of the python version."""
        meta = self.reader.meta
        return dict([*self.reader.train_list, *self.reader.test_list, [meta["filename"], meta["md5"]]])

    def binary_files(self, is_train: bool) -> list[str]:
        """Files of records of the binary version."""
        return [
            f"{name}.bin" for name, _ in (self.reader.train_list if is_train else self.reader.test_list)
        ]

    @property
    def versions(self) -> tuple[tuple[str, str, list[str]], ...]:
        """Folder, archive and files of the python and of the binary version."""
        archive = self.reader.filename
        binary_files = [*self.binary_files(True), *self.binary_files(False), self.class_names]
        return (
            (self.reader.base_folder, archive, list(self.sums)),
            (self.binary_folder, archive.replace("python", "binary"), binary_files),
        )


SETS = {
    "cifar10": Cifar(
        name="cifar10",
        reader=torchvision.datasets.CIFAR10,
        binary_folder="cifar-10-batches-bin",
        class_names="batches.meta.txt",
        label_bytes=1,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": Cifar(
        name="cifar100",
        reader=torchvision.datasets.CIFAR100,
        binary_folder="cifar-100-binary",
        class_names="fine_label_names.txt",
        label_bytes=2,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def cifar(root: Path, name: str, *, download: bool = False) -> ImageData:
    """Read CIFAR-10 or CIFAR-100 (with its fine labels) into memory.

    Args:
        root: holds the folder or the .tar.gz of the python or the binary version, or is one of them.
        name: "cifar10" or "cifar100".
        download: download the python version into ``root`` if neither version is there.

    Raises:
        ValueError: the data set is not in ``root``, or a file is missing, cut off or corrupt.
    """
    dataset = SETS[name]
    place = find_cifar(root, name)
    if place is None and download:
        _download(root, dataset)
        place = find_cifar(root, name)
    if place is None:
        places = ", ".join(f"{folder}, {archive}" for folder, archive, _ in dataset.versions)
        raise ValueError(
            f"there is no {name} in {root}: none of {places}. Name the folder that holds one of them, or "
            "get it with --download"
        )
    fix = f"remove {place} and unpack the official archive again, or get it with --download"
    with _unpacked(place, fix) as folder:
        is_binary = (folder / dataset.class_names).is_file()
        files = dataset.versions[is_binary][2]
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise ValueError(f"{place} lacks {', '.join(missing)}; {fix}")
        try:
            classes, train, test = (_read_binary if is_binary else _read_python)(folder, dataset)
        except ValueError as error:
            raise ValueError(f"{place}: {error}; {fix}") from error
    return ImageData(
        train=StackedImages(*train, f"{name}, train"),
        evaluation=StackedImages(*test, f"{name}, test"),
        classes=classes,
        image_size=32,
        mean=dataset.mean,
        std=dataset.std,
        flip=True,
        split="test",
    )


def find_cifar(root: Path, name: str) -> Path | None:
    """Return the folder or the archive of a data set in ``root``, folders first; None if there is none."""
    versions = SETS[name].versions
    for folder, _, _ in versions:
        if (root / folder).is_dir():
            return root / folder
    for folder, _, files in versions:
        # Two files: the official folder may be renamed, and a file "test" alone could be anything.
        if root.is_dir() and (root.name == folder or sum((root / file).is_file() for file in files) >= 2):
            return root
    archives = [
        path for _, archive, _ in versions for path in (root / archive, root) if path.name == archive
    ]
    return next((path for path in archives if path.is_file()), None)


def _download(root: Path, dataset: Cifar) -> None:
    try:
        dataset.reader(root, train=False, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ValueError(
            f"cannot download {dataset.name} into {root}: {error}. Check the network and the disk, or get "
            "the files from https://www.cs.toronto.edu/~kriz/cifar.html yourself"
        ) from error


@contextmanager
def _unpacked(place: Path, fix: str) -> Iterator[Path]:
    """Yield the folder of a data set; an archive is unpacked into a temporary one."""
    if place.is_dir():
        yield place
        return
    with TemporaryDirectory() as temporary:
        try:
            with tarfile.open(place, "r:gz") as archive:
                archive.extractall(temporary, filter="data")
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise ValueError(f"cannot read {place}: {error}; {fix}") from error
        folders = [path for path in Path(temporary).iterdir() if path.is_dir()]
        yield folders[0] if len(folders) == 1 else Path(temporary)


def _read_python(folder: Path, dataset: Cifar) -> tuple[tuple[str, ...], Split, Split]:
    corrupt = [name for name, md5 in dataset.sums.items() if not check_integrity(folder / name, md5)]
    if corrupt:
        raise ValueError(f"the MD5 sum of {', '.join(corrupt)} is not the official one")
    # Torchvision looks for base_folder in a root, but the folder may have been renamed.
    reader = type(dataset.name, (dataset.reader,), {"base_folder": folder.name})
    train, test = (reader(folder.parent, train=is_train) for is_train in (True, False))
    splits = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in (train, test)
    ]
    return tuple(train.classes), splits[0], splits[1]


def _read_binary(folder: Path, dataset: Cifar) -> tuple[tuple[str, ...], Split, Split]:
    classes = tuple((folder / dataset.class_names).read_text("ascii", errors="replace").split())
    count = int(dataset.name.removeprefix("cifar"))
    if len(classes) != count:
        raise ValueError(f"{dataset.class_names} has {len(classes)} class names instead of {count}")
    splits = []
    for is_train in (True, False):
        files = dataset.binary_files(is_train)
        records = torch.cat([_read_records(folder / file, dataset.label_bytes + PIXELS) for file in files])
        labels = records[:, dataset.label_bytes - 1].long()
        if labels.max() >= count:
            raise ValueError(
                f"the label {int(labels.max())} in {', '.join(files)} is none of 0..{count - 1}"
            )
        splits.append((records[:, dataset.label_bytes :].reshape(-1, 3, 32, 32), labels))
    return classes, splits[0], splits[1]


def _read_records(file: Path, length: int) -> Tensor:
    """Read a file as (N, length) uint8."""
    content = np.fromfile(file, np.uint8)
    if not len(content) or len(content) % length:
        raise ValueError(f"{file.name} is cut off: {len(content)} bytes are not records of {length} bytes")
    return torch.from_numpy(content).view(-1, length)


def _format(name: str) -> ImageFormat:
    def open_cifar(settings: ImageSettings, seed: int) -> ImageData:
        assert settings.data is not None
        data = cifar(settings.data, name, download=settings.download)
        return replace(data, image_size=settings.image_size or data.image_size)

    return ImageFormat(
        open=open_cifar,
        detect=lambda settings: settings.data is not None and find_cifar(settings.data, name) is not None,
        options=frozenset({"image_size"}),
    )


CIFAR10, CIFAR100 = _format("cifar10"), _format("cifar100")
