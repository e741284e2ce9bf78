"""Write a data set as a pack: one file that is read without a search, image by image.

See `recursivemix.data.formats.pack` for the layout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from recursivemix.models import SMALL_IMAGE

from .atomic_write import name_file
from .decode import as_rgb
from .formats.pack import HEADER, header, index_bytes
from .images import EncodedImages, ImageData, LabelledImages
from .open import chosen_images, open_format, open_images
from .printable import encodable
from .settings import ImageSettings
from .splits import NoEvaluationSplitError


@dataclass(frozen=True)
class Packed:
    """What was written."""

    images: int
    size: int
    """Bytes of the file."""
    skipped: tuple[str, ...]
    """Images that were left out, with the reason."""


def write_pack(
    settings: ImageSettings,
    out: Path,
    *,
    size: int | None = None,
    quality: int = 90,
    raw: bool | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Packed:
    """Write the images of a data set into one file.

    It is written under another name and renamed when it is complete.

    Args:
        settings: the data set. Without a val or test split, all images are written as training images.
        out: file to write.
        size: images with a larger shorter side are reduced to it, in pixels (default: keep the size).
        quality: of JPEG, 1 to 100; JPEG images that keep their size are copied.
        raw: store pixels instead of JPEG (default: for images of up to 64 pixels).
        workers: number of threads that encode.
        progress: show a progress bar on standard error.

    Raises:
        ValueError: the data set cannot be used, an image cannot be read, or ``out`` exists.
    """
    if size is not None and size < 1:
        raise ValueError(f"--size must be at least 1, got {size}")
    if not 1 <= quality <= 100:
        raise ValueError(f"--quality must be in 1..100, got {quality}")
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    if out.exists():
        raise ValueError(f"--out {out} exists: choose another name, or delete it")
    data = open_whole(settings)
    parts = {"train": data.train}
    if len(data.evaluation):
        parts[data.split] = data.evaluation
    if raw is None:
        raw = min(size or data.image_size, data.image_size) <= SMALL_IMAGE
    encoder = Encoder(size, None if raw else quality)
    facts = {
        "classes": data.classes,
        "splits": {name: len(images) for name, images in parts.items()},
        "mean": data.mean,
        "std": data.std,
        "flip": data.flip,
    }
    labels = torch.cat([images.labels for images in parts.values()])
    names = [encodable(images.name(i)).encode() for images in parts.values() for i in range(len(images))]
    with sole_writer(out) as file:
        contents = _encoded(encoder, list(parts.values()), workers, progress)
        length = write_contents(file, contents, labels, names, facts)
    return Packed(len(names), length, data.skipped)


def write_contents(
    file: IO[bytes], contents: Iterable[bytes], labels: Tensor, names: list[bytes], facts: dict[str, Any]
) -> int:
    """Write the encoded images and their index to an empty file, then the header that makes it complete.

    Contents, (N,) or (N, K) labels and names are of all images, the facts of the data set.

    Returns:
        The bytes of the file.
    """
    positions, checksums = [], []
    file.write(bytes(HEADER))
    for content in contents:
        positions.append((file.tell(), len(content)))
        checksums.append(zlib.crc32(content))
        file.write(content)
    arrays = {
        "positions": np.array(positions, np.int64),
        "checksums": np.array(checksums, np.uint32),
        "labels": labels.numpy(),
        "names": np.array(names, "S"),
    }
    start, index = file.tell(), index_bytes(arrays, facts)
    file.write(index)
    length = file.tell()
    file.seek(0)
    file.write(header(length, start, index))
    return length


@contextlib.contextmanager
def sole_writer(out: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file beside ``out`` that no other process writes; rename it to ``out`` on success.

    It is removed on failure. Platforms and file systems without locks go without.

    Raises:
        ValueError: another process writes it.
    """
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            if not _is_locked(file, part):
                raise ValueError(
                    f"--out {out} is being written by another process: wait for its end, or choose another "
                    f"name"
                )
            try:
                file.truncate()
                yield file
                file.flush()
                os.fsync(file.fileno())
                if sys.platform == "win32":  # where open files cannot be renamed
                    file.close()
                part.replace(out)
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
    except OSError as error:  # closing the file can raise too
        name_file(error, out)
        raise


def _is_locked(file: IO[bytes], path: Path) -> bool:
    """Lock an open file; return False if another process holds the lock or has just renamed the file."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # the file system has no locks
    return path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def open_whole(settings: ImageSettings) -> ImageData:
    """Open a data set; without an evaluation split, all images are training images, in their order."""
    try:
        return open_images(settings)
    except NoEvaluationSplitError:
        seed = settings.split_seed or 0
        # Formats leave it to their caller to hold out a share, and give all images.
        data = chosen_images(open_format(replace(settings, holdout=0.5), seed), settings, seed)
    return replace(data, evaluation=data.evaluation.select(torch.arange(0)))


@dataclass(frozen=True)
class Encoder:
    """Encodes images for a pack."""

    size: int | None
    """Largest shorter side in pixels; None for any."""
    quality: int | None
    """Of JPEG; None stores pixels, as PPM."""

    def __call__(self, images: LabelledImages, index: int) -> bytes:
        """Return an encoded image."""
        if not isinstance(images, EncodedImages):
            return self.encode(Image.fromarray(images[index].permute(1, 2, 0).numpy()))
        with images.open(index) as image:
            keeps_size = self.size is None or min(image.size) <= self.size
            if self.size is not None and not keeps_size:
                factor = 2 * self.size / min(image.size)
                image.draft(image.mode, (int(factor * image.width), int(factor * image.height)))
            original = None
            if self.quality is not None and keeps_size and image.format == "JPEG" and image.fp is not None:
                image.fp.seek(0)
                original = image.fp.read()
            pixels = as_rgb(image)  # finds broken files
        if original is not None:
            return original
        return self.encode(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))

    def encode(self, image: Image.Image) -> bytes:
        """Resize and encode an RGB image."""
        shorter = min(image.size)
        if self.size is not None and shorter > self.size:
            width, height = (max(1, round(side * self.size / shorter)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        file = BytesIO()
        if self.quality is None:
            image.save(file, "PPM")
        else:
            image.save(file, "JPEG", quality=self.quality)
        return file.getvalue()


def _encoded(
    encoder: Encoder, parts: Sequence[LabelledImages], workers: int, progress: bool
) -> Iterator[bytes]:
    """Yield the encoded images of all parts in order; a block of them is in memory at a time."""
    places = [(images, index) for images in parts for index in range(len(images))]
    blocks = (places[start : start + 256] for start in range(0, len(places), 256))
    console = Console(stderr=True)
    with ThreadPoolExecutor(workers) as pool:
        contents = chain.from_iterable(pool.map(lambda place: encoder(*place), block) for block in blocks)
        yield from track(
            contents, "packing", len(places), console=console, transient=True, disable=not progress
        )
