"""Decode images to RGB tensors; an error names the image and says how to fix it."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

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


@contextmanager
def open_image(content: Path | bytes | None, name: str, fix: str) -> Iterator[Image.Image]:
    """Open an encoded image; decoding errors inside the context are converted too.

    Args:
        content: a file, or the encoded bytes; None if the data set stores no image here.
        name: the image's name in error messages.
        fix: what the user can do about an unreadable image, for error messages.

    Raises:
        UnreadableImageError: the image cannot be decoded.
    """
    try:
        if content is None:
            raise ValueError("no image is stored here")
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if not size:
            raise ValueError("empty file")
        with Image.open(content if isinstance(content, Path) else BytesIO(content)) as image:
            yield image
    except DECODING_ERRORS as error:
        raise UnreadableImageError(
            f"cannot read the image {name}: {failure_reason(error)}; {fix}"
        ) from error


def open_image_file(path: Path) -> AbstractContextManager[Image.Image]:
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
