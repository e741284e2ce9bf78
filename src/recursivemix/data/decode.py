"""Decode images to RGB tensors; an error names the image and says how to fix it.

A crop that is larger than the network's input is decoded at 1/2, 1/4 or 1/8 of the size: JPEG by the
inverse cosine transform of fewer coefficients, other formats by averaging squares of pixels.
"""

from __future__ import annotations

import contextlib
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from simplejpeg import decode_jpeg, decode_jpeg_header
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
RAW = re.compile(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n")
"""Header of raw pixels as Pillow writes them (PPM): width and height."""
BAND = 2**24
"""Pixels of an image that are converted at a time: a conversion takes several copies of its pixels."""
MOST_ELONGATED = 50
"""A narrower image fills the memory when its shorter side gets a usable size, and else becomes empty."""
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
            is_webp = image.format == "WEBP"  # Pillow holds four copies of it while it decodes it
            limit = max_pixels // 2 if is_webp else max_pixels
            if image.width * image.height > limit:
                raise ValueError(
                    f"{image.width}x{image.height} pixels are above the limit of {limit} pixels, "
                    f"{'half of ' if is_webp else ''}--max-pixels of recursivemix fit"
                )
            yield image
    except DECODING_ERRORS as error:
        raise UnreadableImageError(
            f"cannot read the image {name}: {failure_reason(error)}; {fix}"
        ) from error


def open_image_file(path: Path) -> AbstractContextManager[ImageFile.ImageFile]:
    """Open an image file; see `open_image`."""
    return open_image(path, str(path), FIX_FILE)


def whole_image(path: Path) -> Tensor:
    """Decode an image of detection or segmentation, which are not cropped to a square: (3, H, W) uint8.

    Raises:
        UnreadableImageError: the image cannot be decoded, or one side is `MOST_ELONGATED` times the other.
    """
    with open_image_file(path) as image:
        check_sides(image.width, image.height)
        return as_rgb(image)


def check_sides(width: int, height: int) -> None:
    """Raise UnreadableImageError if one side of an image is more than `MOST_ELONGATED` times the other."""
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise UnreadableImageError(
            f"{width}x{height} pixels, one side is more than {MOST_ELONGATED} times the other"
        )


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
    """Decode an image of any mode to (3, H, W) uint8 RGB.

    Raises:
        ValueError: pixels of 32 bits outside the range of 8 bits (floating) or 16 bits (integers).
    """
    _check_range(image)
    width, height = image.size
    if width * height <= BAND:
        return _converted(image)
    rows = max(1, BAND // width)
    pixels = torch.empty(height, width, 3, dtype=torch.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = _converted(image.crop((0, top, width, bottom))).permute(1, 2, 0)
    return pixels.permute(2, 0, 1)


def _check_range(image: Image.Image) -> None:
    """Raise ValueError for pixels of 32 bits that would become black or white, or wrap around.

    Such files, often TIFF, do not state their range. Floating pixels in [0, 1] are as common as [0, 255].
    """
    if image.mode not in ("F", "I"):
        return
    low, high = cast(tuple[float, float], image.getextrema())
    if image.mode == "F":
        kind, most = "floating-point numbers", 255
        fits = low == high == 0 or (low > -1 and 2 <= high < 256)  # Pillow drops the fraction
    else:
        kind, most = "integers", 65535
        fits = low >= 0 and high <= most
    if not fits:
        raise ValueError(
            f"its pixels are {kind} from {low:g} to {high:g}, expected 0 to {most}: rescale them and save "
            f"8 or 16 bits per channel"
        )


def _converted(image: Image.Image) -> Tensor:
    if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it at 255
        # To "I" first: torch has no numbers in another byte order, such as those of "I;16B".
        grey: Tensor = (pil_to_tensor(image.convert("I")) & 0xFFFF) // 257
        return grey.byte().repeat(3, 1, 1)
    rgb: Tensor = pil_to_tensor(image.convert("RGB"))
    return rgb


def decode_crop(
    content: Path | bytes | None, name: str, fix: str, choose: ChooseCrop, decoding: Decoding
) -> Tensor:
    """Decode the part of an image that the network receives, at about the resolution that it needs.

    Args:
        content, name, fix: as in `open_image`.
        choose: called once, with the size of the image, before it is decoded.
        decoding: whether to decode at full size, and the largest number of pixels.

    Returns:
        (3, size, size) uint8.

    Raises:
        UnreadableImageError: the image cannot be decoded, or has too many pixels.
    """
    crop = None
    encoded = b"" if content is None or decoding.exact else _read(content)
    size = _plain_size(encoded)
    if size is not None and size[0] * size[1] <= decoding.max_pixels:
        crop = choose(size)
        pixels, scale = _decode_plain(encoded, size, crop.scale)
        if pixels is not None:
            return crop.apply(pixels, scale)
    with open_image(content, name, fix, decoding.max_pixels) as image:
        crop = crop or choose((image.height, image.width))
        if decoding.exact or image.mode.startswith(("I", "F")):  # 16 and 32 bits are for `as_rgb`
            return crop.apply(as_rgb(image))
        return crop.apply(_decode_reduced(image, crop.scale), crop.scale)


def _read(content: Path | bytes) -> bytes:
    """Return encoded bytes; none of an unreadable file, or one that `_plain_size` does not know."""
    if isinstance(content, bytes):
        return content
    try:
        with content.open("rb") as file:
            start = file.read(2)
            return start + file.read() if start in (b"\xff\xd8", b"P6") else b""
    except OSError:  # `open_image` has the words for it
        return b""


def _plain_size(encoded: bytes) -> tuple[int, int] | None:
    """Return the (H, W) of an image that needs no Pillow: JPEG of the usual color space, or raw pixels."""
    if encoded.startswith(b"\xff\xd8"):
        with contextlib.suppress(ValueError):
            height, width, color_space, _ = decode_jpeg_header(encoded)
            return (height, width) if color_space == "YCbCr" else None
    head = RAW.match(encoded)
    return None if head is None else (int(head[2]), int(head[1]))


def _decode_plain(encoded: bytes, size: tuple[int, int], scale: int) -> tuple[Tensor | None, int]:
    """Decode an image of a `_plain_size` at 1/scale.

    Returns:
        (3, H, W) uint8, or None if Pillow must do it, which accepts more files; and its actual scale.
    """
    head = RAW.match(encoded)
    if head is not None:
        if len(encoded) != head.end() + 3 * size[0] * size[1]:
            return None, 1
        values = np.frombuffer(encoded, np.uint8, offset=head.end())
        pixels = values.reshape(*size, 3).copy()  # torch warns of memory that it cannot write
        return torch.from_numpy(pixels).permute(2, 0, 1), 1
    height, width = -(-size[0] // scale), -(-size[1] // scale)
    limits = {} if scale == 1 else {"min_height": height, "min_width": width, "min_factor": scale}
    try:
        pixels = decode_jpeg(encoded, "RGB", **limits)
    except ValueError:
        return None, scale
    return torch.from_numpy(pixels).permute(2, 0, 1) if pixels.shape[:2] == (height, width) else None, scale


def _decode_reduced(image: ImageFile.ImageFile, scale: int) -> Tensor:
    """Decode an opened image at 1/scale with Pillow."""
    width = image.width
    image.draft(image.mode, (width // scale, image.height // scale))  # for JPEG only
    factor = scale // round(width / image.width)
    return as_rgb(image.convert("RGB").reduce(factor) if factor > 1 else image)


def map_decoding(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: bool
) -> list[Result | str]:
    """Apply a function that decodes an image, and may raise anything, to every item, in threads.

    Pillow releases the interpreter lock. ``progress`` shows a progress bar on standard error.

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
