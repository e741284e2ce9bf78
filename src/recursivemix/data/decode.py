"""Decode images to RGB tensors; an error names the image and says how to fix it.

A crop that is larger than the network's input is decoded at 1/2, 1/4 or 1/8 of the size: JPEG by the
inverse cosine transform of fewer coefficients, other formats by averaging squares of pixels.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from simplejpeg import decode_jpeg
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from .crop import ChooseCrop
from .settings import MAX_PIXELS

Item = TypeVar("Item")
Result = TypeVar("Result")

# What Pillow raises for broken files: SyntaxError for PNG, IndexError for GIF, TypeError and struct.error
# for TIFF.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
FIX_FILE = "fix or remove the file, or leave out all unreadable files with --skip-bad"


class UnreadableImageError(ValueError):
    """An image that cannot be decoded; the message names it."""


class Decoding(NamedTuple):
    """How the images of a data set are decoded."""

    exact: bool = False
    """Decode every image at its full size, even if the network's input is smaller."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused before they are decoded."""


@contextmanager
def open_image(
    content: Path | bytes | None, name: str, fix: str, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageFile.ImageFile]:
    """Open an encoded image; decoding errors inside the context are converted too.

    Args:
        content: a file, or the encoded bytes; None if the data set stores no image here.
        name: the image's name in error messages.
        fix: what the user can do about an unreadable image, for error messages.
        max_pixels: largest number of pixels.

    Raises:
        UnreadableImageError: the image cannot be decoded, or has too many pixels.
    """
    try:
        if content is None:
            raise ValueError("no image is stored here")
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if not size:
            raise ValueError("empty file")
        with Image.open(content if isinstance(content, Path) else BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(
                    f"{image.width}x{image.height} pixels are above the limit of {max_pixels} pixels (fit "
                    f"--max-pixels)"
                )
            yield image
    except DECODING_ERRORS as error:
        raise UnreadableImageError(
            f"cannot read the image {name}: {failure_reason(error)}; {fix}"
        ) from error


def open_image_file(path: Path) -> AbstractContextManager[ImageFile.ImageFile]:
    """Open an image file; see `open_image`."""
    return open_image(path, str(path), FIX_FILE)


def failure_reason(error: Exception) -> str:
    """Return why an image cannot be decoded, without its path."""
    if isinstance(error, UnreadableImageError) and isinstance(error.__cause__, Exception):
        return failure_reason(error.__cause__)
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def as_rgb(image: Image.Image) -> Tensor:
    """Decode an image of any mode to (3, H, W) uint8 RGB."""
    if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it at 255
        grey: Tensor = (pil_to_tensor(image).int() & 0xFFFF) // 257
        return grey.byte().repeat(3, 1, 1)
    rgb: Tensor = pil_to_tensor(image.convert("RGB"))
    return rgb


def decode_crop(
    content: Path | bytes | None, name: str, fix: str, choose: ChooseCrop, decoding: Decoding
) -> Tensor:
    """Decode the part of an image that the network receives, at about the resolution that it needs.

    Args:
        content: a file, or the encoded bytes; None if the data set stores no image here.
        name: the image's name in error messages.
        fix: what the user can do about an unreadable image, for error messages.
        choose: called once, with the size of the image, before it is decoded.
        decoding: whether to decode at full size, and the largest number of pixels.

    Returns:
        (3, size, size) uint8.

    Raises:
        UnreadableImageError: the image cannot be decoded, or has too many pixels.
    """
    with open_image(content, name, fix, decoding.max_pixels) as image:
        crop = choose((image.height, image.width))
        if decoding.exact or image.mode.startswith("I"):  # 16-bit grey is for `as_rgb`
            return crop.apply(as_rgb(image))
        if image.mode == "RGB" and image.fp is not None:
            if image.format == "PPM" and (pixels := _raw_pixels(image)) is not None:
                return crop.apply(pixels)
            if image.format == "JPEG" and (pixels := _decode_jpeg(image, crop.scale)) is not None:
                return crop.apply(pixels, crop.scale)
        return crop.apply(_decode_reduced(image, crop.scale), crop.scale)


def _raw_pixels(image: ImageFile.ImageFile) -> Tensor | None:
    """Return the pixels of an opened PPM file as Pillow writes it; None if Pillow must decode it."""
    assert image.fp is not None
    image.fp.seek(0)
    content = image.fp.read()
    head = b"P6\n%d %d\n255\n" % image.size
    if not content.startswith(head) or len(content) != len(head) + 3 * image.width * image.height:
        return None
    pixels = np.frombuffer(content, np.uint8, offset=len(head)).reshape(image.height, image.width, 3)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)  # a copy: torch warns of what it cannot write


def _decode_jpeg(image: ImageFile.ImageFile, scale: int) -> Tensor | None:
    """Decode an opened JPEG at 1/scale; None if Pillow must do it, which reads more kinds of files."""
    assert image.fp is not None
    height, width = -(-image.height // scale), -(-image.width // scale)
    limits = {} if scale == 1 else {"min_height": height, "min_width": width, "min_factor": scale}
    image.fp.seek(0)
    try:
        pixels = decode_jpeg(image.fp.read(), "RGB", **limits)
    except ValueError:
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1) if pixels.shape[:2] == (height, width) else None


def _decode_reduced(image: ImageFile.ImageFile, scale: int) -> Tensor:
    """Decode an opened image at 1/scale with Pillow."""
    width = image.width
    image.draft(image.mode, (width // scale, image.height // scale))  # for JPEG only
    factor = scale // round(width / image.width)
    return as_rgb(image.convert("RGB").reduce(factor) if factor > 1 else image)


def map_decoding(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: bool
) -> list[Result | str]:
    """Apply a function that decodes an image to every item, in threads.

    Args:
        function: decodes one image; may raise anything.
        items: the arguments of the function, such as files.
        workers: number of threads; Pillow releases the interpreter lock.
        progress: show a progress bar on standard error.

    Returns:
        For each item, in order, the function's result, or the reason as text if it raised an error.
    """
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")

    def result_or_reason(item: Item) -> Result | str:
        try:
            return function(item)
        except Exception as error:  # a broken file can fail anywhere in Pillow; go on with the next
            return failure_reason(error)

    blocks = [items[start : start + 64] for start in range(0, len(items), 64)]
    results: list[Result | str] = []
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress)
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata and palettes
        task = bar.add_task("decoding", total=len(items))
        try:
            for block in pool.map(lambda block: [result_or_reason(item) for item in block], blocks):
                results += block
                bar.update(task, completed=len(results))
        except BaseException:  # on Ctrl-C, do not decode the remaining images first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
