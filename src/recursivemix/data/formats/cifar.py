"""CIFAR-10 and CIFAR-100 from their official files, python or binary version, unpacked or not.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009);
https://www.cs.toronto.edu/~kriz/cifar.html describes the files.
"""

from __future__ import annotations

import codecs
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from recursivemix.data.images import ImageData, StackedImages

Name = Literal["cifar10", "cifar100"]
Split = tuple[Tensor, Tensor]

PIXELS = 3 * 32 * 32
CLASSES: dict[str, int] = {"cifar10": 10, "cifar100": 100}
# Of all training pixels, RGB in [0, 1]; the standard deviation over pixels, not the mean of the images'.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


@dataclass(frozen=True)
class Layout:
    """One official packing of a set."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    names: str
    """File of the class names."""
    names_key: str = ""
    """Key of the class names and of the labels, in a python version."""
    labels_key: str = ""
    label_bytes: int = 0
    """Bytes before the pixels of a record, of which the last is the (fine) label; 0: a python version."""

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.names)


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "cifar10": (
        Layout(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test="test_batch",
            names="batches.meta",
            names_key="label_names",
            labels_key="labels",
        ),
        Layout(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin",
            names="batches.meta.txt",
            label_bytes=1,
        ),
    ),
    "cifar100": (
        Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            train=("train",),
            test="test",
            names="meta",
            names_key="fine_label_names",
            labels_key="fine_labels",
        ),
        Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            label_bytes=2,
        ),
    ),
}


def cifar(root: Path, name: Name, *, download: bool = False) -> ImageData:
    """CIFAR-10 or CIFAR-100 (with its fine labels), all in memory.

    Args:
        root: holds the folder or the .tar.gz of the python or the binary version, or is one of them.
        name: "cifar10" or "cifar100".
        download: get the python version into ``root`` if there is none; else nothing is downloaded.

    Raises:
        ValueError: no such data there, or a file that is missing, cut off or corrupt; the message names it.
    """
    if name not in LAYOUTS:
        raise ValueError(f"name must be one of {', '.join(LAYOUTS)}, got {name!r}")
    found = _find(root, name)
    if found is None and download:
        _download(root, name)
        found = _find(root, name)
    if found is None:
        places = ", ".join(f"{layout.folder}, {layout.archive}" for layout in LAYOUTS[name])
        raise ValueError(
            f"there is no {name} in {root}: none of {places}. Name the folder that holds one of them, or "
            "get it with --download"
        )
    place, layout = found
    contents = _read(place, layout)
    classes = _class_names(contents[layout.names], layout, CLASSES[name], place / layout.names)
    parts = {
        file: _images(contents[file], layout, len(classes), place / file)
        for file in (*layout.train, layout.test)
    }
    train = [parts[file] for file in layout.train]
    mean, std = STATISTICS[name]
    return ImageData(
        train=StackedImages(
            torch.cat([images for images, _ in train]),
            torch.cat([labels for _, labels in train]),
            f"{name}, train",
        ),
        evaluation=StackedImages(*parts[layout.test], f"{name}, test"),
        classes=classes,
        image_size=32,
        mean=mean,
        std=std,
        flip=True,
        split="test",
    )


def find_cifar(root: Path) -> Name | None:
    """Which of the two is in ``root``, or is it; None where neither is.

    Raises:
        ValueError: both are there.
    """
    ten, hundred = _find(root, "cifar10"), _find(root, "cifar100")
    if ten is not None and hundred is not None:
        raise ValueError(
            f"{root} holds both CIFAR-10 and CIFAR-100: name the one that is meant, "
            f"{ten[0]} or {hundred[0]}"
        )
    if ten is not None:
        return "cifar10"
    return None if hundred is None else "cifar100"


def _find(root: Path, name: str) -> tuple[Path, Layout] | None:
    """The folder or archive of a set, folders first."""
    for layout in LAYOUTS[name]:
        if (root / layout.folder).is_dir():
            return root / layout.folder, layout
    for layout in LAYOUTS[name]:
        # Two files: the official folder may be renamed, and "test" alone could be anything.
        if root.name == layout.folder or sum((root / file).is_file() for file in layout.files) >= 2:
            return (root, layout) if root.is_dir() else None
    for layout in LAYOUTS[name]:
        for archive in (root / layout.archive, root):
            if archive.name == layout.archive and archive.is_file():
                return archive, layout
    return None


def _download(root: Path, name: str) -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    try:
        # The archive is checked by its MD5 sum before it is unpacked.
        {"cifar10": CIFAR10, "cifar100": CIFAR100}[name](root, train=False, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise ValueError(
            f"cannot download {name} into {root}: {error}. Look at the network and the disk, or bring the "
            "files from https://www.cs.toronto.edu/~kriz/cifar.html yourself"
        ) from error


def _read(place: Path, layout: Layout) -> dict[str, bytes]:
    """Every file of a layout, by its name."""
    contents: dict[str, bytes] = {}
    try:
        if place.is_dir():
            contents = {
                file: (place / file).read_bytes() for file in layout.files if (place / file).is_file()
            }
        else:
            with tarfile.open(place, "r|gz") as archive:
                for member in archive:
                    name = Path(member.name).name
                    stream = archive.extractfile(member) if name in layout.files else None
                    if stream is not None:
                        contents[name] = stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"cannot read {place}: {error}; {_mend(place)}") from error
    missing = [file for file in layout.files if file not in contents]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}; {_mend(place)}")
    return contents


def _mend(place: Path) -> str:
    return f"remove {place} and unpack the official archive again, or get it with --download"


def _images(content: bytes, layout: Layout, classes: int, path: Path) -> Split:
    """(N, 3, 32, 32) uint8 and (N,) int64 of one file."""
    if layout.label_bytes:
        pixels, labels = _split_records(content, layout.label_bytes, path)
    else:
        entry = _unpickle(content, path)
        try:
            pixels = np.array(entry["data"], order="C")
            labels = np.array(entry[layout.labels_key], dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise _corrupt(path, f"no 'data' and {layout.labels_key!r} in it") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
            raise _corrupt(path, f"its data are {pixels.dtype} {pixels.shape}, not uint8 (N, {PIXELS})")
        if labels.shape != (len(pixels),):
            raise _corrupt(path, f"{len(pixels)} images and labels of shape {labels.shape}")
    if not len(labels):
        raise _corrupt(path, "no images in it")
    if labels.min() < 0 or labels.max() >= classes:
        raise _corrupt(path, f"labels {labels.min()} to {labels.max()} of {classes} classes")
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels)


def _split_records(content: bytes, label_bytes: int, path: Path) -> tuple[Any, Any]:
    record = label_bytes + PIXELS
    if len(content) % record:
        raise _corrupt(path, f"{len(content)} bytes are no whole number of {record}-byte records")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, label_bytes:].copy(), records[:, label_bytes - 1].astype(np.int64)


def _class_names(content: bytes, layout: Layout, count: int, path: Path) -> tuple[str, ...]:
    if layout.label_bytes:
        names = content.decode("ascii", errors="replace").split()
    else:
        entry = _unpickle(content, path)
        names = entry.get(layout.names_key, []) if isinstance(entry, dict) else []
    if len(names) != count:
        raise _corrupt(path, f"{len(names)} class names instead of {count}")
    return tuple(str(name) for name in names)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain values and NumPy arrays, and nothing that could run code."""

    # Protocol 2 of either Python, and 5; under the module names of NumPy 1 and 2.
    _rebuild = np.empty(0).__reduce__()[0]
    _rebuild_5 = np.empty(0).__reduce_ex__(5)[0]
    ALLOWED: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _rebuild,
        ("numpy._core.multiarray", "_reconstruct"): _rebuild,
        ("numpy.core.numeric", "_frombuffer"): _rebuild_5,
        ("numpy._core.numeric", "_frombuffer"): _rebuild_5,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file does") from None


def _unpickle(content: bytes, path: Path) -> Any:
    try:
        return _ArrayUnpickler(BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a broken pickle may end in any of them
        raise _corrupt(path, str(error) or type(error).__name__) from error


def _corrupt(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is corrupt or cut off: {what}; {_mend(path.parent)}")
