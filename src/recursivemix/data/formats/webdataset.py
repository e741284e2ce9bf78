"""WebDataset shards: tar files of samples, local or on the network; see `recursivemix.data.tar_file`."""

from __future__ import annotations

import glob
import gzip
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from recursivemix.data.annotated import distinct, lines_of
from recursivemix.data.images import ImageData, ImageFormat
from recursivemix.data.rows import SPLITS
from recursivemix.data.settings import ImageSettings
from recursivemix.data.shards import SHARD_OPTIONS, LimitedFile, Shard, sharded_images

SUFFIXES = (".tar", ".tar.gz", ".tgz")
CLASS_NAMES = "classes.txt"
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
    def is_zipped(self) -> bool:
        """Whether the name ends like that of a gzipped file; the query of a URL does not count."""
        name = re.split("[?#]", self.name)[0] if self.is_url else self.name
        return name.endswith((".gz", ".tgz"))

    @property
    def path(self) -> Path | None:
        """The file; None for a URL or a gzipped file."""
        return None if self.is_url or self.is_zipped else Path(self.name)

    def copy(self, target: LimitedFile) -> None:
        """Fetch and unzip the file."""
        import fsspec

        with fsspec.open(self.name, "rb") as remote:
            content = gzip.GzipFile(fileobj=remote) if self.is_zipped else remote
            shutil.copyfileobj(content, target, 2**20)


def open_webdataset(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open the images of tar shards.

    ``data`` is a folder of shards, a shard, or a pattern of paths or URLs such as
    ``https://host/train-{000..099}.tar``. The split of a shard is a word of its file name, or else the
    first word of its folder; without either it is for training.

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
    classes = distinct(lines_of(listed)) if listed.is_file() else ()
    return sharded_images(settings, seed, parts, classes)


def find_shards(address: str) -> list[str]:
    """Return the shards in a folder, or of a pattern with ``*``, ``{000..099}`` or ``{a,b}``."""
    is_url = SCHEME.match(address) is not None
    if not is_url and Path(address).is_dir():
        return sorted(str(p) for p in Path(address).rglob("*") if _is_shard(p) and p.is_file())
    if not is_url and Path(address).is_file():
        return [address]
    braces = re.search(r"\{([^{}]*)\}", address)
    if braces is not None:
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
        choices = braces[1].split(",")
        if numbers is not None:
            first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
            choices = [f"{number:0{width}}" for number in range(first, last + 1)]
        head, tail = address[: braces.start()], address[braces.end() :]
        return [name for choice in choices for name in find_shards(head + choice + tail)]
    return [address] if is_url else sorted(glob.glob(address))


def split_of(name: str) -> str:
    """Return the split of a shard from its file name or its folder."""
    *folders, file = name.lower().split("/")
    words = [*re.split("[^a-z]+", file), *(re.split("[^a-z]", folder)[0] for folder in folders[-1:])]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _is_webdataset(settings: ImageSettings) -> bool:
    if settings.data is None:
        return False
    if settings.data.is_dir():
        return any(_is_shard(path) for path in settings.data.rglob("*.t*"))
    return _is_shard(settings.data)


def _is_shard(path: Path) -> bool:
    """Return whether a file is named like a shard, and neither hidden nor CIFAR's official archive."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith((".", "cifar-"))


WEBDATASET = ImageFormat(open=open_webdataset, detect=_is_webdataset, options=SHARD_OPTIONS)
