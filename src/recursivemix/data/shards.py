"""Images in shards: large files of encoded images, on disk or fetched when they are needed.

The index of all shards (the position and the label of every image) is made once, so that any process reads
any image with one seek, whatever the order. A shard that is not an uncompressed local file is copied into a
cache folder first; the copies that were not used for longest are deleted if the folder grows too large. The
images of such shards are shuffled among a few shards at a time, see `TrainingOrder`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .atomic_write import atomic_write
from .images import ImageData
from .printable import encodable, one_line
from .rows import Row, is_number, rows_data
from .settings import ImageSettings
from .splits import SPLIT_OPTIONS
from .tar_file import Member, tar_members

T = TypeVar("T")
CACHE = Path("~/.cache/recursivemix/shards")
FETCHES = 4
"""Shards that a process indexes or fetches at the same time."""
MOST_COPIES = 20
"""Copies of one shard that other processes may delete before it is read."""
LONGEST_KEY = 500
"""Bytes of a sample's key that are kept, for messages."""
FORMAT = 3
"""Version of the index files."""
SHARD_OPTIONS = SPLIT_OPTIONS | {"shard_cache", "shard_cache_gb", "multi_label", "skip_bad"}
"""Fields of `ImageSettings` that apply to formats of shards."""
FIX = "replace the shard, or leave out all such images with --skip-bad"
DESCRIPTORS = threading.Lock()
"""Held while the open files of `ShardRows` are looked up: several threads read to decode or to pack."""


class LimitedFile:
    """A file that does not grow above ``limit`` bytes: a small gzipped shard can hold more than a disk."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file = file
        self.limit = limit

    def write(self, content: bytes) -> int:
        """Append bytes; raise ValueError if the file would grow above the limit."""
        if self.file.tell() + len(content) > self.limit:
            raise ValueError(f"it has more than {self.limit:,} bytes: raise --shard-cache-gb")
        return self.file.write(content)


class Shard(Protocol):
    """A tar file of samples, or what becomes one; picklable, for loader workers."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""
        ...

    @property
    def identity(self) -> str:
        """A text that changes with the content of the shard."""
        ...

    @property
    def path(self) -> Path | None:
        """The shard itself if it can be read at any position; None if it has to be copied first."""
        ...

    def copy(self, target: LimitedFile) -> None:
        """Write the shard as a tar file that can be read at any position."""
        ...


class ShardCache:
    """Copies and indexes of shards in a folder that several processes share.

    Above ``limit`` bytes of all copies, the oldest are deleted. A larger shard is refused. The methods
    raise ValueError for a shard that cannot be read.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder.expanduser()
        self.limit = limit

    def members(self, shard: Shard) -> list[Member]:
        """Return the images of a shard, from its index file if there is one."""
        index = self._file(shard, ".json")
        try:
            content: Any = json.loads(index.read_text())
            if content["format"] == FORMAT:
                return [Member(k, o, s, tuple(w), p) for k, o, s, w, p in content["members"]]
        except (OSError, ValueError, LookupError, TypeError):
            pass  # there is none, or another version wrote it
        try:
            members = self.use(shard, tar_members)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"cannot read the shard {shard.name}: {_reason(error)}") from error
        self._write(index, json.dumps({"format": FORMAT, "shard": shard.name, "members": members}))
        return members

    def file(self, shard: Shard) -> Path:
        """Return the file of a shard; copy it first if need be. Other processes wait for the copy."""
        if shard.path is not None:
            return shard.path
        copy = self._file(shard, ".shard")
        if not copy.is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(copy.with_suffix(".lock")):
                    if not copy.is_file():
                        with atomic_write(copy) as part, part.open("wb") as file:
                            shard.copy(LimitedFile(file, self.limit))
                        self._delete_oldest(copy)
            except Exception as error:  # a library for each kind of address, with errors of its own
                raise ValueError(f"cannot read the shard {shard.name}: {_reason(error)}") from error
        with contextlib.suppress(FileNotFoundError):  # another process needed the room: see `use`
            os.utime(copy)
        return copy

    def use(self, shard: Shard, read: Callable[[Path], T]) -> T:
        """Call a function with the file of a shard; copy it again if another process deletes it before."""
        for _ in range(MOST_COPIES):
            try:
                return read(self.file(shard))
            except FileNotFoundError:
                if shard.path is not None:
                    raise
        raise ValueError(f"cannot keep the shard {shard.name}: raise --shard-cache-gb")

    def _file(self, shard: Shard, suffix: str) -> Path:
        digest = hashlib.blake2b(shard.identity.encode(), digest_size=16).hexdigest()
        return self.folder / f"{digest}{suffix}"

    def _write(self, path: Path, text: str) -> None:
        """Write an index, at once; without a place for it, shards are indexed again next time."""
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(text)
            partial.replace(path)

    def _delete_oldest(self, newest: Path) -> None:
        """Delete copies above the limit. A process that has one open can go on reading it."""
        copies = []
        for path in self.folder.glob("*.shard"):
            try:
                copies.append((path.stat().st_mtime, path.stat().st_size, path))
            except OSError:  # another process deleted it
                continue
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= self.limit:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size


class ShardRows:
    """Encoded images of many shards, by row; see `EncodedSource`.

    ``blocks``, (rows,) int64, is the shard of each row, and ``members`` its position there.
    """

    fix = FIX

    def __init__(
        self, shards: Sequence[Shard], cache: ShardCache, blocks: Tensor, members: Sequence[Member]
    ) -> None:
        self.shards = shards
        self.cache = cache
        self.shard_of = blocks
        self.blocks = None if all(shard.path is not None for shard in shards) else blocks
        # Arrays, which loader workers share; a list of objects would be copied into each of them.
        keys = [encodable(member.key).encode()[:LONGEST_KEY] for member in members]
        self.keys = np.array(keys, dtype="S")
        self.positions = torch.tensor([(member.offset, member.size) for member in members]).view(-1, 2)
        self._descriptors: dict[int, int] = {}
        self._requested: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptors": {}, "_requested": set()}

    def __getitem__(self, row: int) -> bytes:
        offset, size = self.positions[row].tolist()
        descriptor = self._descriptor(int(self.shard_of[row]))
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _descriptor(self, shard: int) -> int:
        """Return a descriptor of a shard's file for the caller to close: another thread may close ours."""
        with DESCRIPTORS:
            if shard not in self._descriptors:
                if len(self._descriptors) >= 64:
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
                self._descriptors[shard] = self.cache.use(
                    self.shards[shard], lambda path: os.open(path, os.O_RDONLY)
                )
            return os.dup(self._descriptors[shard])

    def name(self, row: int) -> str:
        return f"{self.shards[int(self.shard_of[row])].name}, {self.keys[row].decode(errors='replace')}"

    def prefetch(self, rows: Tensor) -> None:
        """Start to copy the shards of these rows in the background."""
        if self.blocks is None:
            return
        for shard in set(self.blocks[rows].tolist()) - self._requested:
            if len(self._requested) >= 8 * FETCHES:
                self._requested.clear()
            self._requested.add(shard)
            threading.Thread(target=self._try_to_copy, args=(self.shards[shard],), daemon=True).start()

    def _try_to_copy(self, shard: Shard) -> None:
        with contextlib.suppress(ValueError):  # raised again when an image of the shard is read
            self.cache.file(shard)


def index_shards(shards: Sequence[Shard], cache: ShardCache) -> list[list[Member] | ValueError]:
    """Index all shards, several at a time; a shard that cannot be read yields its error."""

    def members_or_error(shard: Shard) -> list[Member] | ValueError:
        try:
            return cache.members(shard)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(FETCHES) as pool:
        results = pool.map(members_or_error, shards)
        return list(
            track(results, "indexing shards", len(shards), console=Console(stderr=True), transient=True)
        )


def _reason(error: Exception) -> str:
    while isinstance(error, FileNotFoundError):
        if not isinstance(error.__cause__, Exception):
            return "not found"
        error = error.__cause__  # fsspec makes other errors of the network to this one
    return one_line(error)


def sharded_images(
    settings: ImageSettings, seed: int, parts: Mapping[str, Sequence[Shard]], names: Sequence[str] = ()
) -> ImageData:
    """Make the data set of the shards of each split: "train", and "val" or "test".

    The ``names`` are of the classes if their labels are numbers (default: the labels).

    Raises:
        ValueError: a shard cannot be read or is empty, or a sample has no image or label.
    """
    names_of_splits = ("val", "test") if settings.holdout is None else ()
    evaluation = next((split for split in names_of_splits if split in parts), "train")
    splits = {shard: split for split in ("train", evaluation) for shard in parts.get(split, ())}
    shards = list(splits)
    cache = ShardCache(settings.shard_cache or CACHE, int(settings.shard_cache_gb * 2**30))
    skipped, members, blocks = [], [], []
    for number, result in enumerate(index_shards(shards, cache)):
        if isinstance(result, ValueError) or not result:
            skipped.append(str(result) if result else f"the shard {shards[number].name} is empty")
        else:
            members += result
            blocks += [number] * len(result)
    source = ShardRows(shards, cache, torch.tensor(blocks, dtype=torch.long), members)
    bad = {row: member.problem for row, member in enumerate(members) if member.problem is not None}
    rows = [
        Row(number, splits[shards[block]], member.labels)
        for number, (block, member) in enumerate(zip(blocks, members, strict=True))
        if member.problem is None
    ]
    data = rows_data(settings, seed, source, rows, bad, skipped=skipped)
    if not names:
        return data
    if not all(is_number(label) and int(label) < len(names) for label in data.classes):
        raise ValueError(
            f"{settings.data}: with the {len(names)} names in classes.txt, labels must be numbers below "
            f"that"
        )
    return replace(data, classes=tuple(names[int(label)] for label in data.classes))
