"""Packs: the images of a data set in one file, written by `recursivemix.data.pack`.

Layout: a header of `HEADER` bytes; the encoded images one after the other, JPEG or raw (PPM); the index, an
``.npz`` archive. The header holds the length of the file and the position and CRC-32 of the index; it has a
CRC-32 of its own. The index holds position, CRC-32, label and name of each image, and facts about the data.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.images import EncodedImages, ImageData, ImageFormat
from recursivemix.data.printable import one_line
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import SPLIT_OPTIONS, image_data
from recursivemix.models.preprocessing import three_numbers

MAGIC = b"rmpack1\n"
FIELDS = struct.Struct("<8sQQQI")
"""Magic number, length of the file, start and length of the index, CRC-32 of the index."""
HEADER = FIELDS.size + 4
"""Bytes of the header: the fields and their CRC-32."""
FIX = "pack the data again with recursivemix pack"


def header(length: int, start: int, index: bytes) -> bytes:
    """Return the header of a file of ``length`` bytes with this index at ``start``."""
    fields = FIELDS.pack(MAGIC, length, start, len(index), zlib.crc32(index))
    return fields + struct.pack("<I", zlib.crc32(fields))


def index_bytes(arrays: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """Return the index as bytes; `read_index` is the inverse."""
    file = BytesIO()
    np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)
    return file.getvalue()


class Index:
    """What a pack holds, without the images.

    Args:
        arrays: positions (N, 2) int64 of start and length; checksums (N,) uint32; labels (N,) int64 or
            (N, K) uint8; names (N,) bytes.
        facts: classes, the number of images of each split in order, mean, std and flip.

    Raises:
        ValueError: they do not fit together, or the images do not lie within the first ``end`` bytes.
    """

    def __init__(self, arrays: Mapping[str, Any], facts: Mapping[str, Any], end: int) -> None:
        self.positions = np.ascontiguousarray(arrays["positions"], np.int64)
        self.checksums = np.ascontiguousarray(arrays["checksums"], np.uint32)
        self.labels = torch.from_numpy(np.ascontiguousarray(arrays["labels"]))
        self.names = np.ascontiguousarray(arrays["names"]).astype("S")
        self.classes = tuple(str(name) for name in facts["classes"])
        self.splits = {str(name): int(count) for name, count in facts["splits"].items()}
        self.mean, self.std = (three_numbers(facts[name], name) for name in ("mean", "std"))
        self.flip = bool(facts["flip"])
        count = len(self.positions)
        starts, lengths = self.positions.reshape(count, 2).T
        counts = list(self.splits.values())
        alike = self.checksums.shape == self.names.shape == (count,) == self.labels.shape[:1]
        if not alike or sum(counts) != count or min(counts) < 1 or next(iter(self.splits)) != "train":
            raise ValueError("its parts have different lengths")
        if (starts < HEADER).any() or (lengths < 0).any() or (starts > end - lengths).any():
            raise ValueError("an image lies outside the file")
        if (self.labels.dtype, self.labels.ndim) not in ((torch.long, 1), (torch.uint8, 2)):
            raise ValueError("its labels are neither classes nor marks of classes")
        several, largest = self.labels.ndim == 2, int(self.labels.max())
        if several and largest > 1:
            raise ValueError("its marks of classes are neither 0 nor 1")
        last = self.labels.shape[1] - 1 if several else largest
        if last >= len(self.classes) or int(self.labels.min()) < 0:
            raise ValueError("its labels have no classes")
        if min(self.std) <= 0:
            raise ValueError(f"its std must be above 0, got {self.std}")


def read_index(path: Path) -> Index:
    """Read the index of a pack; raise ValueError unless the header says that it is a whole pack."""
    try:
        with path.open("rb") as file:
            start = file.read(HEADER)
            if start[: len(MAGIC)] != MAGIC:
                raise ValueError("it does not begin like one")
            if len(start) < HEADER or start != start[: FIELDS.size] + struct.pack(
                "<I", zlib.crc32(start[: FIELDS.size])
            ):
                raise ValueError("its header is damaged")
            _, length, offset, size, checksum = FIELDS.unpack(start[: FIELDS.size])
            actual = path.stat().st_size
            if actual != length or offset + size != length:
                raise ValueError(f"it has {actual} bytes instead of {length}")
            file.seek(offset)
            content = file.read(size)
        if zlib.crc32(content) != checksum:
            raise ValueError("its index is damaged")
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return Index(arrays, json.loads(arrays["facts"].tobytes()), offset)
    except Exception as error:  # NumPy and json raise many kinds for odd content
        raise ValueError(f"{path} is not a whole pack: {one_line(error)}; {FIX}") from error


class PackRows:
    """Encoded images of a pack, by row; see `EncodedSource`. Loader processes share the mapped file."""

    fix = FIX
    blocks: Tensor | None = None

    def __init__(self, path: Path, index: Index) -> None:
        self.path = path
        self.positions = index.positions
        self.checksums = index.checksums
        self.names = index.names
        self._checked = bytearray(len(index.names))
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def __getitem__(self, row: int) -> bytes:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start, length = self.positions[row].tolist()
        content = self._map[start : start + length]
        if not self._checked[row]:  # once in every process
            if zlib.crc32(content) != self.checksums[row]:
                raise UnreadableImageError(
                    f"cannot read the image {self.name(row)}: its bytes in the pack are damaged; {FIX}"
                )
            self._checked[row] = 1
        return content

    def name(self, row: int) -> str:
        """Return the pack and the name that the image had in its source."""
        return f"{self.path}, {self.names[row].decode(errors='replace')}"


def open_pack(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open a pack.

    Raises:
        ValueError: the file is not a whole pack, or has no evaluation split and no option makes one.
    """
    path = settings.data
    assert path is not None
    index = read_index(path)
    source = PackRows(path, index)
    images, first = {}, 0
    for split, count in index.splits.items():
        rows = torch.arange(first, first + count)
        images[split] = EncodedImages(source, index.labels[rows], rows)
        first += count
    data = image_data(settings, seed, index.classes, images)
    return replace(data, mean=index.mean, std=index.std, flip=index.flip)


def is_pack(path: Path | None) -> bool:
    """Tell whether a file begins like a pack."""
    if path is None or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


PACK = ImageFormat(
    open=open_pack, detect=lambda settings: is_pack(settings.data), options=SPLIT_OPTIONS | {"skip_bad"}
)
