"""A live page on this machine: pick a mixer, step through the recursion, drop in an image.

The server keeps no session: what is shown is a function of the settings in the address, the data it was
started with, and at most `KEPT` dropped images. It listens on loopback alone, answers no other host's name,
and reads no file but those it was started with.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import itertools
import json
import socket
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from recursivemix.data.augment import colour_scale, evaluation_transform, normalise
from recursivemix.data.decode import as_rgb
from recursivemix.data.images import ImageData, denormalise
from recursivemix.data.names import Source
from recursivemix.evaluation.activation import activation_maps
from recursivemix.mixing import MIXERS
from recursivemix.report.cells import Cell, Cells, as_bytes, as_grid
from recursivemix.report.page import render_grid, templates
from recursivemix.training.devices import check_device
from recursivemix.training.settings import Device

from .activation import Looked, distinct_names, map_cell, read_looked
from .preview import Step, classified_cell, first_batches, in_rows, network_for, open_preview
from .sources import SourceTracker

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MOST_STEPS = 24
BATCH_SIZE, ROWS, COLUMNS = 8, 3, 4
"""Images a step, and how many samples and last steps are shown."""
MOST_BYTES = 8 * 2**20
MOST_PIXELS = 40_000_000
KEPT = 4
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DROPPED = "your image"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class TooLargeError(ValueError):
    """An image of too many bytes or pixels."""


@dataclass(frozen=True)
class Settings:
    """What the page asks for."""

    mixer: str = "recursivemix"
    step: int = 1
    prob: float = 1.0
    max_area: float = 0.5
    alpha: float = 1.0
    per_sample: bool = False
    seed: int = 0
    image: str = ""
    """The name of a dropped image."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the mixer: those of the sliders that it has."""
        chosen = {"prob": self.prob, "per_sample": self.per_sample, "seed": self.seed}
        return chosen | {name: getattr(self, name) for name in sliders_of(self.mixer)}


def sliders_of(mixer: str) -> list[str]:
    """Which of ``max_area`` and ``alpha`` a mixer has; RecursiveMix takes the latter as another name."""
    names = inspect.signature(MIXERS[mixer].__init__).parameters
    return [name for name in ("max_area", "alpha") if name in names][:1]


def settings_from(query: Mapping[str, str]) -> Settings:
    """The settings of an address.

    Raises:
        ValueError: a value of another kind, or out of its range.
    """
    mixer = query.get("mixer", "recursivemix")
    if mixer not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {mixer!r}")
    ranges: dict[str, tuple[type, float, float]] = {
        "step": (int, 1, MOST_STEPS),
        "prob": (float, 0, 1),
        "max_area": (float, 0, 1),
        "alpha": (float, 0.05, 8),
        "seed": (int, 0, 2**31 - 1),
    }
    values: dict[str, Any] = {}
    for name, (kind, least, most) in ranges.items():
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
    """What the server was started with, and the images that were dropped in.

    Args:
        data: the images.
        model: name of the network of methods that work inside one.
        looked: a trained network whose activation maps are shown.
    """

    data: ImageData
    model: str = "resnet20"
    looked: Looked | None = None
    dropped: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.batches = lru_cache(maxsize=2)(self._batches)

    def _batches(self, seed: int) -> list[Step]:
        return list(itertools.islice(first_batches(self.data, BATCH_SIZE, seed), MOST_STEPS))

    def keep(self, content: bytes) -> str:
        """Keep a dropped image, as bytes of a file; returns its name.

        Raises:
            TooLargeError: more pixels than are allowed.
            ValueError: no image of the formats that are read.
        """
        image = read_dropped(content)
        size = self.data.image_size
        short = evaluation_transform(size)(image)
        name = hashlib.sha256(content).hexdigest()[:16]
        with self.lock:
            self.dropped[name] = short
            while len(self.dropped) > KEPT:
                self.dropped.popitem(last=False)
        return name

    def show(self, settings: Settings) -> str:
        """The page's changing part: the last steps, and where the network looks.

        Raises:
            ValueError: settings that do not go together, or a dropped image that is gone.
        """
        with self.lock:
            image = self.dropped.get(settings.image)
            if settings.image and image is None:
                raise ValueError("the image is no longer kept: drop it in again")
            columns, pictures = self._columns(settings, image)
            shown = columns[-COLUMNS:]
            cells = in_rows(f"{settings.mixer}, iteration {settings.step}", shown)
            first = settings.step - len(shown) + 1
            heads = tuple(f"iteration {i}" for i in range(first, settings.step + 1))
            html = render_grid(as_grid(Cells(cells.title, heads, cells.rows, cells.names)))
            if self.looked is not None:
                html += render_grid(as_grid(looked_at(self.looked, pictures)))
        return html

    def _columns(self, settings: Settings, image: Tensor | None) -> tuple[list[list[Cell]], list[Tensor]]:
        """The cells of every step up to the chosen one, and the last step's images in bytes."""
        data, steps = self.data, self.batches(settings.seed)[: settings.step]
        sources = BATCH_SIZE * MOST_STEPS
        network = network_for(settings.mixer, self.model, sources, data.image_size, settings.seed)
        tracker = SourceTracker(settings.mixer, BATCH_SIZE, MOST_STEPS, network, **settings.options())
        names = (*data.classes, DROPPED)
        classes = torch.zeros(sources, dtype=torch.long)
        columns, pictures = [], []
        for number, step in enumerate(steps):
            images, labels = step.images, step.labels
            if number == 0 and image is not None:
                colours = colour_scale(data.mean, data.std, torch.device("cpu"))
                images, labels = images.clone(), labels.clone()
                images[0], labels[0] = normalise(image[None], colours)[0], len(data.classes)
            if step.begins:
                tracker.start_epoch()
            first = number * BATCH_SIZE
            classes[first : first + len(labels)] = labels
            composition = tracker(images, step.indices)
            if number < len(steps) - COLUMNS:
                continue
            pictures = list(as_bytes(denormalise(composition.batch.images[:ROWS], data.mean, data.std)))
            columns.append(
                [
                    classified_cell(picture, composition, i, number, BATCH_SIZE, classes, names)
                    for i, picture in enumerate(pictures)
                ]
            )
        return columns, pictures


def looked_at(looked: Looked, pictures: list[Tensor], top: int = COLUMNS) -> Cells:
    """Activation maps of mixed images, of the classes that the network thinks likeliest."""
    shown, inputs = looked.inputs(pictures)
    scores = looked.probabilities(inputs)
    chosen = scores.topk(min(top, scores.shape[1])).indices
    columns = []
    for place in range(chosen.shape[1]):
        maps = activation_maps(looked.network, inputs, chosen[:, place].to(inputs.device))
        columns.append(
            [
                map_cell(shown[i], maps[i], looked.classes, scores[i], int(chosen[i, place]))
                for i in range(len(shown))
            ]
        )
    rows = tuple(zip(*columns, strict=True))
    heads = tuple(f"choice {i}" for i in range(1, len(columns) + 1))
    return Cells(f"What {looked.name} sees in the last iteration", heads, rows, ("",) * len(rows))


def read_dropped(content: bytes) -> Tensor:
    """(3, H, W) uint8 of a file's bytes; looks at its size before it decodes it."""
    if len(content) > MOST_BYTES:
        raise TooLargeError(f"an image may have {MOST_BYTES // 2**20} MiB")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise TooLargeError(f"an image may have {MOST_PIXELS // 10**6} million pixels")
            return as_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"an image may have {MOST_PIXELS // 10**6} million pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, TooLargeError):
            raise
        raise ValueError(f"this is no image that can be read ({', '.join(FORMATS)})") from error


def make_app(studio: Studio) -> Starlette:
    """The server's application.

    Raises:
        ValueError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
        from starlette.responses import Response as PlainResponse
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise ValueError("the studio needs starlette: pip install 'recursivemix[studio]'") from error

    folder = resources.files(__package__)
    report = resources.files("recursivemix.report")
    names = {name: sliders_of(name) for name in MIXERS}
    template = templates("explain").get_template("studio.html.jinja")
    page = template.render(
        mixers=names, sliders=json.dumps(names), most_steps=MOST_STEPS, looked=studio.looked is not None
    )
    style = "".join(
        (place / name).read_text()
        for place, name in ((report, "page.css"), (report, "grid.css"), (folder, "studio.css"))
    )
    script = (folder / "studio.js").read_text()

    def index(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    def css(request: Request) -> Response:
        return PlainResponse(style, media_type="text/css", headers=HEADERS)

    def javascript(request: Request) -> Response:
        return PlainResponse(script, media_type="text/javascript", headers=HEADERS)

    def mixed(request: Request) -> Response:
        try:
            return HTMLResponse(studio.show(settings_from(request.query_params)), headers=HEADERS)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=400, headers=HEADERS)

    async def dropped(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
            return PlainTextResponse("of another page", status_code=403, headers=HEADERS)
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                message = f"an image may have {MOST_BYTES // 2**20} MiB"
                return PlainTextResponse(message, status_code=413, headers=HEADERS)
        try:
            return JSONResponse({"image": studio.keep(bytes(content))}, headers=HEADERS)
        except TooLargeError as error:
            return PlainTextResponse(str(error), status_code=413, headers=HEADERS)
        except ValueError as error:
            return PlainTextResponse(str(error), status_code=400, headers=HEADERS)

    Handler = Callable[[Any], Any] | Callable[[Any], Awaitable[Any]]
    routes: list[tuple[str, Handler, str]] = [
        ("/", index, "GET"),
        ("/studio.css", css, "GET"),
        ("/studio.js", javascript, "GET"),
        ("/mixed", mixed, "GET"),
        ("/image", dropped, "POST"),
    ]
    return Starlette(
        routes=[Route(path, handler, methods=[method]) for path, handler, method in routes],
        # A page elsewhere could give its own name this machine's address.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


def serve(
    data: Path | None = None,
    dataset: Source | None = None,
    val_split: float | None = None,
    image_size: int | None = None,
    model: str = "resnet20",
    checkpoint: Path | None = None,
    device: Device = "auto",
    port: int = 7860,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page on this machine alone, until it is interrupted.

    Args:
        data: Folder of images, as in recursivemix fit. Without it, parts of two photographs.
        dataset: What --data is, as in recursivemix fit; digits for the handwritten digits.
        val_split: As in recursivemix fit, for a folder without splits.
        image_size: Pixels a side. Default: as in recursivemix fit.
        model: The network, for a method that works inside it; its weights are random.
        checkpoint: File written by recursivemix fit, whose activation maps are shown.
        device: Of that network: cpu, gpu, or auto for what is there.
        port: On 127.0.0.1; 0 takes a free one.
        tell: is given the page's address.

    Raises:
        ValueError: data or a checkpoint that can't be used, or a missing package.
        OSError: the port is taken.
    """
    check_device(device)
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be in 0..65535, got {port}")
    opened = open_preview(data, dataset, val_split, image_size, 0)
    looked = (
        None if checkpoint is None else read_looked(checkpoint, distinct_names([checkpoint])[0], device)
    )
    app = make_app(Studio(opened, model, looked))
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError("the studio needs uvicorn: pip install 'recursivemix[studio]'") from error
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OSError(f"port {port} can't be used ({error.strerror}): name another with --port") from error
    with listening:
        tell(f"http://127.0.0.1:{listening.getsockname()[1]}/ (Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return
