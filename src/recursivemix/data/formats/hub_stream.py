"""Data sets of the Hugging Face hub that are read shard by shard, for sets that do not fit on the disk.

Each file of the data set is copied into the shard cache when it is needed, as a tar file; see
`recursivemix.data.shards`.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from recursivemix.data.images import ImageData, ImageFormat
from recursivemix.data.settings import ImageSettings
from recursivemix.data.shards import SHARD_OPTIONS, LimitedFile, Shard, sharded_images

from .hub import EVALUATION, find_columns, library, load_splits


@dataclass(frozen=True)
class StreamShard:
    """One file of a streamed split, as a `Shard`."""

    name: str
    """NAME[SPLIT], shard NUMBER."""
    number: int
    image: str
    """Column of the images."""
    label: str
    """Column of the class indices."""
    stream: Any = field(compare=False)
    """The ``datasets.IterableDataset`` of the split, with images as stored."""
    version: str
    """Text that changes with the content of the data set."""

    @property
    def identity(self) -> str:
        """The version and the number of the shard."""
        return f"{self.name} {self.version} {self.image} {self.label}"

    @property
    def path(self) -> Path | None:
        """None: a stream has to be copied."""
        return None

    def copy(self, target: LimitedFile) -> None:
        """Read the shard and write its rows as a tar file."""
        part = self.stream.shard(self.stream.num_shards, self.number)
        with tarfile.open(fileobj=cast(IO[bytes], target), mode="w|") as archive:
            for row, sample in enumerate(part):
                stored, label = sample[self.image], sample[self.label]
                content = None if stored is None else stored["bytes"]
                text = "" if label is None or label < 0 else str(label)
                if content is None and stored is not None and Path(stored["path"]).is_file():
                    content = Path(stored["path"]).read_bytes()
                for suffix, data in (("jpg", content), ("cls", text.encode())):
                    if data is not None:
                        entry = tarfile.TarInfo(f"{row:08d}.{suffix}")
                        entry.size = len(data)
                        archive.addfile(entry, io.BytesIO(data))


def open_stream(settings: ImageSettings, seed: int = 0) -> ImageData:
    """Open a data set as `hugging_face` does, but as shards; the network is used whenever one is read.

    Raises:
        ValueError: ``datasets`` is not installed, or the data set is not there or lacks columns or splits.
    """
    name = str(settings.data)
    splits = load_splits(name, download=True, stream=True)
    if "train" not in splits:
        raise ValueError(f"{name} has no split 'train', but {', '.join(splits)}")
    if not isinstance(splits["train"], library().IterableDataset):
        raise ValueError(
            f"{name} was made by save_to_disk, which is not read as a stream: use --dataset hf"
        )
    features = splits["train"].features
    if features is None:
        raise ValueError(f"{name} does not declare its columns: use --dataset hf")
    image, label = find_columns(f"{name}[train]", features)
    others = [s for s in EVALUATION if s in splits] if settings.holdout is None else []
    second = next((s for s in others if _is_labelled(splits[s], label)), None)
    version = _version(name)
    parts: dict[str, list[Shard]] = {}
    for split in ("train", second):
        if split is not None:
            stream = splits[split].cast_column(image, library().Image(decode=False))
            stream = stream.select_columns([image, label])
            parts["train" if split == "train" else EVALUATION[split]] = [
                StreamShard(f"{name}[{split}], shard {i}", i, image, label, stream, version)
                for i in range(stream.num_shards)
            ]
    return sharded_images(settings, seed, parts, features[label].names)


def _is_labelled(stream: Any, label: str) -> bool:
    return any(row.get(label) not in (None, -1) for row in itertools.islice(stream, 1))


def _version(name: str) -> str:
    """Return a text that changes with the files of a data set: its commit on the hub, or their times."""
    folder = Path(name).expanduser()
    if folder.exists():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name.partition(":")[0]).sha)


HUB_STREAM = ImageFormat(open=open_stream, detect=lambda settings: False, options=SHARD_OPTIONS)
