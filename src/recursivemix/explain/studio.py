"""The content of the studio: mixed batches by iteration, with an image of the user, and activation maps.

No state is kept per user: what is shown is a function of the settings in the address, of the data that the
studio was started with, and of at most `KEPT` uploaded images.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import io
import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from recursivemix.data.augment import colour_scale, normalise
from recursivemix.data.crop import evaluation_image
from recursivemix.data.decode import DECODING_ERRORS, as_rgb
from recursivemix.data.images import ImageData, denormalise
from recursivemix.mixing import MIXERS
from recursivemix.report.cells import Cell, Cells, as_bytes
from recursivemix.report.page import render_grid

from .activation import NamedModel
from .batches import Step, first_batches, network_for
from .mixed_cells import in_rows, mixed_cell, mixed_steps
from .sources import SourceTracker

MOST_STEPS = 24
BATCH_SIZE, ROWS, COLUMNS = 8, 3, 4
"""Images per batch; samples and last iterations that are shown."""
MOST_BYTES = 8 * 2**20
MOST_PIXELS = 40_000_000
KEPT = 4
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
UPLOADED = "your image"


class TooLargeError(ValueError):
    """An image with too many bytes or pixels."""


@dataclass(frozen=True)
class Settings:
    """The settings in the page's address."""

    mixer: str = "recursivemix"
    step: int = 1
    prob: float = 1.0
    max_area: float = 0.5
    alpha: float = 1.0
    per_sample: bool = False
    seed: int = 0
    image: str = ""
    """Name of an uploaded image."""

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the mixer."""
        chosen: dict[str, Any] = {"prob": self.prob, "per_sample": self.per_sample, "seed": self.seed}
        chosen |= {name: getattr(self, name) for name in sliders_of(self.mixer)}
        if chosen.get("max_area") == 0:  # the mixer takes areas above 0; this slider's end means no mixing
            chosen |= {"prob": 0.0, "max_area": Settings.max_area}
        return chosen


RANGES: dict[str, tuple[type, float, float]] = {
    "step": (int, 1, MOST_STEPS),
    "prob": (float, 0, 1),
    "max_area": (float, 0, 1),
    "alpha": (float, 0.05, 8),
    "seed": (int, 0, 2**31 - 1),
}
"""Type and range of the settings that are numbers."""


def sliders_of(mixer: str) -> list[str]:
    """Return which of ``max_area`` and ``alpha`` a mixer has; for RecursiveMix they are the same."""
    names = inspect.signature(MIXERS[mixer].__init__).parameters
    return [name for name in ("max_area", "alpha") if name in names][:1]


def settings_from(query: Mapping[str, str]) -> Settings:
    """Return the settings of an address; raise ValueError for one of another type or out of range."""
    mixer = query.get("mixer", "recursivemix")
    if mixer not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
    values: dict[str, Any] = {}
    for name, (kind, least, most) in RANGES.items():
        if name not in query:
            continue
        try:
            value = kind(query[name])
        except ValueError as error:
            raise ValueError(f"{name} must be a number in [{least:g}, {most:g}]") from error
        if not least <= value <= most:
            raise ValueError(f"{name} must be in [{least:g}, {most:g}], got {value}")
        values[name] = value
    per_sample = query.get("per_sample") == "true"
    return Settings(mixer, per_sample=per_sample, image=query.get("image", ""), **values)


@dataclass
class Studio:
    """The data of the studio and the uploaded images."""

    data: ImageData
    model: str = "resnet20"
    """Network of methods that work inside one."""
    trained: NamedModel | None = None
    """Network whose activation maps are shown."""
    uploads: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.batches = lru_cache(maxsize=2)(self._batches)

    def _batches(self, seed: int) -> list[Step]:
        return list(itertools.islice(first_batches(self.data, BATCH_SIZE, seed), MOST_STEPS))

    def keep(self, content: bytes) -> str:
        """Keep an uploaded image, resized; return its name.

        Raises:
            TooLargeError: the image has too many bytes or pixels.
            ValueError: the file is no image in one of the `FORMATS`.
        """
        with self.lock:  # one large image in memory at a time
            image = read_upload(content, self.data.image_size)
            release_memory()
            name = hashlib.sha256(content).hexdigest()[:16]
            self.uploads[name] = evaluation_image(image, self.data.image_size)
            while len(self.uploads) > KEPT:
                self.uploads.popitem(last=False)
        return name

    def show(self, settings: Settings) -> str:
        """Return the changing part of the page as HTML.

        Raises:
            ValueError: settings that exclude each other, or an uploaded image that is no longer kept.
        """
        with self.lock:
            image = self.uploads.get(settings.image)
            if settings.image and image is None:
                raise ValueError("the image is no longer kept: upload it again")
            columns, pictures = self._columns(settings, image)
            first = settings.step - len(columns) + 1
            cells = in_rows(f"{settings.mixer}, iteration {settings.step}", columns, first)
            html = render_grid(cells)
            if self.trained is not None:
                html += render_grid(map_cells(self.trained, pictures))
        return html

    def _columns(self, settings: Settings, image: Tensor | None) -> tuple[list[list[Cell]], list[Tensor]]:
        """Return the cells of the last steps up to the chosen one, and the last step's images as uint8."""
        data = self.data
        steps = self.batches(settings.seed)[: settings.step]
        names = (*data.classes, UPLOADED)
        if image is not None:
            steps = [with_image(steps[0], image, data), *steps[1:]]
        sources = BATCH_SIZE * MOST_STEPS
        network = network_for(settings.mixer, self.model, sources, data.image_size, settings.seed)
        try:
            tracker = SourceTracker(settings.mixer, BATCH_SIZE, MOST_STEPS, network, **settings.options())
        except ValueError as error:
            if network is None:
                raise
            raise ValueError(f"{error}, or start the studio with a --model that has it") from error
        columns: list[list[Cell]] = []
        pictures: list[Tensor] = []
        for step in mixed_steps(tracker, steps):
            if step.number >= len(steps) - COLUMNS:
                mixed = step.composition.batch.images[:ROWS]
                pictures = list(as_bytes(denormalise(mixed, data.mean, data.std)))
                columns.append([mixed_cell(step, i, p, names) for i, p in enumerate(pictures)])
        return columns, pictures


def with_image(step: Step, image: Tensor, data: ImageData) -> Step:
    """Replace the first image of a batch by an uploaded one, whose class comes after the others."""
    starts_epoch, batch = step
    images, targets = batch.images.clone(), batch.targets.clone()
    images[0] = normalise(image[None], colour_scale(data.mean, data.std, torch.device("cpu")))[0]
    targets[0] = len(data.classes)
    return starts_epoch, batch._replace(images=images, targets=targets)


def map_cells(model: NamedModel, pictures: list[Tensor]) -> Cells:
    """Return activation maps of mixed images for their most probable classes."""
    shown, inputs = model.inputs(pictures)
    scores = model.probabilities(inputs)
    chosen = scores.topk(min(COLUMNS, scores.shape[1])).indices
    columns = [
        model.map_cells(shown, inputs, scores, labels, "gradcam", None) for labels in chosen.unbind(1)
    ]
    rows = tuple(zip(*columns, strict=True))
    heads = tuple(f"choice {i}" for i in range(1, len(columns) + 1))
    title = f"Evidence for the most probable classes of {model.name}, last iteration"
    return Cells(title, heads, rows, ("",) * len(rows))


def release_memory() -> None:
    """Return freed memory to the system; glibc would keep the blocks of a decoded image."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_upload(content: bytes, size: int) -> Tensor:
    """Decode an image to (3, H, W) uint8, after checking its size in the header.

    An image with many more pixels than the ``size`` per side that is needed is first reduced by an integer
    factor, to save memory.

    Raises:
        TooLargeError: the image has too many bytes or pixels.
        ValueError: the file is no image in one of the `FORMATS`.
    """
    if len(content) > MOST_BYTES:
        raise TooLargeError(f"an image must have at most {MOST_BYTES // 2**20} MiB")
    too_large = TooLargeError(f"an image must have at most {MOST_PIXELS // 10**6} million pixels")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise too_large
            factor = min(image.size) // (8 * size)
            if factor < 2 or image.mode.startswith("I"):  # 16 bits are for `as_rgb`
                return as_rgb(image)
            return as_rgb((image if image.mode == "RGB" else image.convert("RGB")).reduce(factor))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large from error
    except TooLargeError:
        raise
    except (*DECODING_ERRORS, UnidentifiedImageError) as error:
        raise ValueError(f"the file must be an image that can be read ({', '.join(FORMATS)})") from error
