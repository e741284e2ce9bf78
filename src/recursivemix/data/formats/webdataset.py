"""WebDataset shards: tar files in which the files of one sample share their name up to the first dot.

A sample has an image (``jpg``, ``png``, ``webp``, ...) and its label: ``cls``, a number or a name, or
several separated by ";"; or ``json`` with the key ``label``. Format:
https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import glob
import gzip
import io
import itertools
import json
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torchvision.datasets.folder import IMG_EXTENSIONS

from recursivemix.data.images import ImageData, ImageFormat
from recursivemix.data.rows import SPLITS, Words, split_words
from recursivemix.data.settings import ImageSettings
from recursivemix.data.shards import SHARD_OPTIONS, LimitedFile, Member, Shard, sharded_images

SUFFIXES = (".tar", ".tar.gz", ".tgz")
LABEL_KEYS = ("label", "labels", "class", "target")
CLASS_NAMES = "classes.txt"
LONGEST_LABEL = 2**20
"""Largest number of bytes of a label file."""
SCHEME = re.compile(r"\b([a-z][a-z0-9+.-]+):/+")


@dataclass(frozen=True)
class TarShard:
    """A tar file as a `Shard`: a path, or a URL that fsspec can open; gzipped or not."""

    name: str

    @property
    def is_url(self) -> bool:
        """Whether the address has a scheme, such as https or s3."""
        return SCHEME.match(self.name) is not None

    @property
    def identity(self) -> str:
        """The URL; or path, size and time of change of a file."""
        if self.is_url:
            return self.name
        status = Path(self.name).stat()
        return f"{Path(self.name).absolute()} {status.st_size} {status.st_mtime_ns}"

    @property
    def path(self) -> Path | None:
        """The file; None for a URL or a gzipped file."""
        return None if self.is_url or not self.name.endswith(".tar") else Path(self.name)

    def copy(self, target: LimitedFile) -> None:
        """Fetch and unzip the file."""
        import fsspec

        with fsspec.open(self.name, "rb") as remote:
            if self.name.endswith(".tar"):
                shutil.copyfileobj(remote, target, 2**20)
            else:
                with gzip.open(remote) as unzipped:
                    shutil.copyfileobj(unzipped, target, 2**20)

    def members(self, file: Path) -> list[Member]:
        """Return the samples; see `tar_members`."""
        return tar_members(file)


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
                entries.extend(entry for entry in archive if entry.isfile())
        except tarfile.TarError as error:
            problem = f"the tar file is broken from here on: {error}"
        for key, group in itertools.groupby(entries, lambda entry: _key(entry.name)):
            members.append(_member(content, key, {e.name[len(key) + 1 :].lower(): e for e in group}))
    if problem is not None and not members:
        raise ValueError(problem)
    return members if problem is None else [*members[:-1], members[-1]._replace(problem=problem)]


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
    image = next((entry for suffix, entry in sample.items() if f".{suffix}".endswith(IMG_EXTENSIONS)), None)
    if image is None:
        return Member(key, 0, 0, (), "the sample has no image")
    offset, size = image.offset_data, image.size
    labels: Words | None = None
    try:
        if "cls" in sample:
            labels = split_words(_read(content, sample["cls"]).decode())
        elif "json" in sample:
            fields = json.loads(_read(content, sample["json"]))
            labels = next((split_words(fields[name]) for name in LABEL_KEYS if name in fields), None)
    except (ValueError, TypeError, RecursionError) as error:
        return Member(key, offset, size, (), f"its label cannot be read: {error}")
    if labels is None:
        return Member(key, offset, size, (), f"the sample has no .cls, and no .json with {LABEL_KEYS[0]!r}")
    return Member(key, offset, size, labels)


def _read(content: IO[bytes], entry: tarfile.TarInfo) -> bytes:
    if entry.size > LONGEST_LABEL:
        raise ValueError(f"it has {entry.size} bytes, more than {LONGEST_LABEL}")
    content.seek(entry.offset_data)
    return content.read(entry.size)


def open_webdataset(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open the images of tar shards.

    Args:
        settings: ``data`` is a folder of shards, a shard, or a pattern of paths or URLs such as
            ``https://host/train-{000..099}.tar``. The split of a shard is the first word of its file name,
            or else the name of its folder; without either it is for training.
        seed: of held-out images.

    Raises:
        ValueError: there is no shard, a shard is broken or empty, or a sample has no image or label.
    """
    assert settings.data is not None
    address = SCHEME.sub(r"\1://", str(settings.data))  # a path joins the slashes of a URL
    names = find_shards(address)
    if not names:
        raise ValueError(f"there are no shards {address}: name a folder of .tar files, or a pattern")
    parts: dict[str, list[Shard]] = {}
    for name in names:
        parts.setdefault(split_of(name), []).append(TarShard(name))
    folder = Path(address) if Path(address).is_dir() else Path(names[0]).parent
    listed = folder / CLASS_NAMES
    lines = listed.read_text().splitlines() if listed.is_file() else []
    return sharded_images(settings, seed, parts, [line.strip() for line in lines if line.strip()])


def find_shards(address: str) -> list[str]:
    """Return the shards in a folder, or of a pattern with ``*``, ``{000..099}`` or ``{a,b}``."""
    if SCHEME.match(address) is None and Path(address).is_dir():
        return sorted(str(p) for p in Path(address).rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
    braces = re.search(r"\{([^{}]*)\}", address)
    if braces is not None:
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
        choices = braces[1].split(",")
        if numbers is not None:
            first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
            choices = [f"{number:0{width}}" for number in range(first, last + 1)]
        head, tail = address[: braces.start()], address[braces.end() :]
        return [name for choice in choices for name in find_shards(head + choice + tail)]
    if SCHEME.match(address) is None:
        return sorted(glob.glob(address))
    return [address]


def split_of(name: str) -> str:
    """Return the split of a shard from its file name or its folder."""
    folder, file = name.split("/")[-2:] if "/" in name else ("", name)
    words = (re.match(r"[a-z]*", file.lower()), re.match(r"[a-z]*", folder.lower()))
    return next((SPLITS[word[0]] for word in words if word is not None and word[0] in SPLITS), "train")


def _is_webdataset(settings: ImageSettings) -> bool:
    if settings.data is None:
        return False
    if settings.data.is_dir():
        return any(_is_shard(path) for path in settings.data.rglob("*.t*"))
    return _is_shard(settings.data)


def _is_shard(path: Path) -> bool:
    """Return whether a file is named like a shard; CIFAR's official archives are tar files too."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith("cifar-")


WEBDATASET = ImageFormat(open=open_webdataset, detect=_is_webdataset, options=SHARD_OPTIONS)
