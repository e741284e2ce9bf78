"""Tar files of samples: the files of one sample share their name up to the first dot.

A sample has an image (``jpg``, ``png``, ``webp``, ...) and its label: ``cls``, a number or a name, or
several separated by ";"; or ``json`` with the key ``label``. Format:
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from .rows import LABEL_NAMES, Words, split_words

LONGEST_LABEL = 2**20
"""Largest number of bytes of a label file."""


class Member(NamedTuple):
    """An encoded image in a shard."""

    key: str
    offset: int
    """Of the first byte in the file."""
    size: int
    """In bytes."""
    labels: Words
    problem: str | None = None
    """Why the sample cannot be used; None if it can."""


def tar_members(file: Path) -> list[Member]:
    """Read the headers and the labels of all samples in a tar file.

    Raises:
        ValueError: it is not a tar file. In a broken one, the last sample has a problem.
    """
    members: list[Member] = []
    entries: list[tarfile.TarInfo] = []
    problem = None
    with file.open("rb") as content:
        try:
            with tarfile.open(fileobj=content, mode="r:") as archive:
                entries.extend(entry for entry in archive if entry.isfile() and _is_part(entry.name))
                content.seek(archive.offset)
                if any(content.read(tarfile.BLOCKSIZE)):  # `tarfile` takes a broken header for the end
                    raise tarfile.ReadError("bad header")
        except tarfile.TarError as error:
            problem = f"the tar file is broken from here on: {error}"
        for key, group in itertools.groupby(entries, lambda entry: _key(entry.name)):
            members.append(_member(content, key, {e.name[len(key) + 1 :].lower(): e for e in group}))
    if problem is not None and not members:
        raise ValueError(problem)
    return members if problem is None else [*members[:-1], members[-1]._replace(problem=problem)]


def _is_part(name: str) -> bool:
    """Tell whether a file belongs to a sample; others are a README, or the ``._NAME`` files of macOS."""
    file = name.rpartition("/")[2]
    return "." in file and not file.startswith(".")


def _key(name: str) -> str:
    """Return the name of a sample: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _member(content: IO[bytes], key: str, sample: dict[str, tarfile.TarInfo]) -> Member:
    """Make the member of a sample from its files, by their suffixes."""
    content.seek(0, io.SEEK_END)
    length = content.tell()
    if any(entry.offset_data + entry.size > length for entry in sample.values()):
        return Member(key, 0, 0, (), "the tar file ends within the sample")
    # "png" goes before "depth.png".
    suffixes = sorted(sample, key=lambda suffix: suffix.count("."))
    image = next((sample[suffix] for suffix in suffixes if f".{suffix}".endswith(IMG_EXTENSIONS)), None)
    if image is None:
        return Member(key, 0, 0, (), "the sample has no image")
    offset, size = image.offset_data, image.size
    labels: Words | None = None
    try:
        if "cls" in sample:
            labels = split_words(_read(content, sample["cls"]).decode())
        elif "json" in sample:
            fields = json.loads(_read(content, sample["json"]))
            labels = next((split_words(fields[name]) for name in LABEL_NAMES if name in fields), None)
    except (ValueError, TypeError, RecursionError) as error:
        return Member(key, offset, size, (), f"its label cannot be read: {error}")
    if labels is None:
        return Member(
            key, offset, size, (), f"the sample has no .cls, and no .json with {LABEL_NAMES[0]!r}"
        )
    return Member(key, offset, size, labels)


def _read(content: IO[bytes], entry: tarfile.TarInfo) -> bytes:
    if entry.size > LONGEST_LABEL:
        raise ValueError(f"it has {entry.size} bytes, more than {LONGEST_LABEL}")
    content.seek(entry.offset_data)
    return content.read(entry.size)
