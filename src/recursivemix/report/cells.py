"""Draw a grid of pictures, each with a bar of shares and lines of text, as PNG, GIF or part of a page."""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from recursivemix.data.atomic_write import atomic_write
from recursivemix.data.printable import printable

from .fonts import NOTE, drawing_quietly, fonts_for, isolated
from .names import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUND = {"light": "#ffffff", "dark": "#14171c"}
INK = {"light": "#1b1f24", "dark": "#e6e9ee"}
AGES = (
    "own image", "another of this batch", "from 1 step ago", "from 2 steps ago", "from 3 steps ago",
    "from before",
)  # fmt: skip
AGE_COLOURS = {
    "light": ("#0072b2", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#767676"),
    "dark": ("#4ea8e6", "#b7def5", "#e8ae3c", "#2cc295", "#e596c8", "#a6afba"),
}
"""Colours of `AGES`, after Okabe and Ito; segments are also ordered by age."""
BOX_COLOUR = "#e69f00"
CELL, PICTURE, LINE = 1.75, 1.6, 0.135
"""Inches: width of a cell, side of its picture, height of a line of text."""
HEAD_WIDTH = 24
"""Characters per line of a column's name."""
SHORTEST_SIDE = 160
"""Pixels; smaller pictures are enlarged, so that lines drawn over them are thin."""
FRAME_MS = 900


@dataclass(frozen=True)
class Part:
    """One source image of a mixed picture."""

    name: str
    """The class name."""
    label: float
    """The weight in the label."""
    pixels: float
    """The share of visible pixels."""
    kind: int
    """Index in `AGES`."""


@dataclass(frozen=True)
class Cell:
    """One picture and the text under it."""

    picture: Tensor
    """(3, H, W) uint8; (3, 0, 0) draws nothing."""
    lines: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    box: tuple[int, int, int, int] | None = None
    """Outline ``(x1, y1, x2, y2)`` in pixels."""


NOTHING = Cell(torch.zeros(3, 0, 0, dtype=torch.uint8), ())
"""An empty cell, for a last batch that is smaller."""


@dataclass(frozen=True)
class Cells:
    """Rows of cells; a row may be shorter than ``columns``."""

    title: str
    columns: tuple[str, ...]
    """Column headings."""
    rows: tuple[tuple[Cell, ...], ...]
    names: tuple[str, ...]
    """Row headings."""
    key: tuple[tuple[str, str], ...] = ()
    """Names and colours of the legend, after the `AGES` that occur."""
    lossless: bool = False
    """Show the pictures as PNG on a page, also large ones."""

    @property
    def kinds(self) -> list[int]:
        """Indices of the `AGES` that occur."""
        return sorted({part.kind for row in self.rows for cell in row for part in cell.parts})


def write_cells(cells: Cells, path: Path, theme: Theme, dpi: int = 110) -> None:
    """Write a PNG atomically."""
    write_figure(draw_cells(cells, theme), path, dpi)


def write_frames(cells: Cells, path: Path, theme: Theme) -> None:
    """Write a GIF that loops over the columns; the cells of a column stand side by side."""
    images = []
    for column, name in enumerate(cells.columns):
        row = tuple(row[column] for row in cells.rows if column < len(row))
        blank = ("",) * len(row)
        frame = Cells(f"{cells.title}, {name}", blank, (row,), ("",), cells.key)
        images.append(Image.open(io.BytesIO(_png(draw_cells(frame, theme), 100))).convert("RGB"))
    # Frames differ in their legends and in the heights of their pictures; a GIF has the size of its first.
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    frames = []
    for image in images:
        border = (0, 0, width - image.width, height - image.height)
        whole = ImageOps.expand(image, border, GROUND[theme])
        frames.append(whole.quantize(256, dither=Image.Dither.NONE))
    held = io.BytesIO()
    frames[0].save(held, format="gif", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    _write(path, held.getvalue())


def draw_cells(cells: Cells, theme: Theme) -> Figure:
    """Draw a figure, laid out in inches so that no text overlaps or is cut off."""
    texts = [cells.title, *cells.columns, *cells.names, *(name for name, _ in cells.key)]
    texts += [line for row in cells.rows for cell in row for line in cell.lines]
    fonts, complete = fonts_for("".join(texts))
    with drawing_quietly(fonts):
        return _draw_grid(cells, theme, "" if complete else NOTE)


def _draw_grid(cells: Cells, theme: Theme, note: str) -> Figure:
    """Draw a figure with a note below it."""
    from matplotlib.figure import Figure

    has_bars = any(cell.parts for row in cells.rows for cell in row)
    lines = max((len(cell.lines) for row in cells.rows for cell in row), default=0)
    sizes = [cell.picture.shape[-2:] for row in cells.rows for cell in row if cell.picture.numel()]
    height = PICTURE * max(height / width for height, width in sizes)
    row_height = height + (0.17 if has_bars else 0.04) + LINE * lines + 0.12
    left = 0.15 if not any(cells.names) else 0.3
    width = max(left + CELL * len(cells.columns) + 0.1, 4.6)
    heads = [textwrap.wrap(name, HEAD_WIDTH) for name in cells.columns]
    deepest = max(len(lines) for lines in heads)
    top = (0.38 if cells.title else 0.08) + (0.1 + 0.14 * deepest if deepest else 0)
    key = [(AGES[kind], AGE_COLOURS[theme][kind]) for kind in cells.kinds] + list(cells.key)
    per_line = max(1, int(width / 1.75))
    below = 0.2 if note else 0.0
    bottom = below + (0.12 + 0.24 * -(-len(key) // per_line) if key else 0.05)
    total = top + row_height * len(cells.rows) + bottom
    figure = Figure(figsize=(width, total), facecolor=GROUND[theme])
    # One for all cells, in inches from the upper left corner: matplotlib takes long to make and draw axes.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(total, 0))
    axis.set_axis_off()
    write = partial(_write_text, axis, theme)

    write(left, 0.1, cells.title, 10, width - left - 0.1, weight="bold")
    for column, head in enumerate(heads):
        x = left + CELL * column + PICTURE / 2
        write(x, top - 0.06, "\n".join(head), 8.5, CELL, ha="center", va="bottom")
    for r, (row, name) in enumerate(zip(cells.rows, cells.names, strict=True)):
        upper = top + row_height * r
        write(0.1, upper + height / 2, name, 8.5, height, rotation=90, va="center")
        for column, cell in enumerate(row):
            if cell.picture.numel():
                x = left + CELL * column
                _draw_picture(axis, cell, x, upper)
                _draw_text(axis, cell, theme, x, upper + height, has_bars)
    if key:
        _draw_key(figure, key, (left / width, (below + 0.04) / total), per_line, INK[theme])
    write(left, total - 0.06, note, 8, width - left - 0.1, va="bottom")
    return figure


def _write_text(
    axis: Axes, theme: Theme, x: float, y: float, text: str, size: float, room: float, **style: Any
) -> None:
    """Write a text as large as fits into ``room``, at most in ``size`` points."""
    text = drawable(text)
    style = {"va": "top", **style}
    axis.text(x, y, text, color=INK[theme], parse_math=False, fontsize=fitting(text, size, room), **style)


def drawable(text: str) -> str:
    """Return a printable text; before 3.11, matplotlib does not know words written right to left."""
    from matplotlib import __version_info__

    text = printable(text)
    return isolated(text) if __version_info__ >= (3, 11) else text


def fitting(text: str, size: float, room: float) -> float:
    """Return the font size at which a text fits into ``room`` inches, at most ``size``."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    widths = [text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
    return size * min(1.0, 72 * room / max(1.0, *widths))


def _draw_key(
    figure: Figure, key: Sequence[tuple[str, str]], corner: tuple[float, float], per_line: int, ink: str
) -> None:
    """Draw the legend: names and colours, with its lower left corner at a share of the figure."""
    from matplotlib.patches import Patch

    legend = figure.legend(
        [Patch(fc=colour, ec="#444444", lw=0.4) for _, colour in key],
        [drawable(short(name, 21)) for name, _ in key],
        loc="lower left", bbox_to_anchor=corner, borderaxespad=0, ncols=per_line, fontsize=8,
        frameon=False, labelcolor=ink, borderpad=0, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_picture(axis: Axes, cell: Cell, x: float, y: float) -> None:
    """Draw the picture and the box of a cell; the upper left corner of the picture is at ``(x, y)``."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    scale = PICTURE / cell.picture.shape[-1]
    place = (x, x + PICTURE, y + scale * cell.picture.shape[-2], y)
    pixels = cell.picture.permute(1, 2, 0).numpy()
    axis.imshow(pixels, interpolation="nearest", aspect="auto", extent=place)
    if cell.box is not None:
        x1, y1, x2, y2 = (scale * side for side in cell.box)
        edge = Rectangle((x + x1, y + y1), x2 - x1, y2 - y1, fill=False, lw=1.3, ec=BOX_COLOUR)
        edge.set_path_effects([withStroke(linewidth=2.3, foreground="#000000")])
        axis.add_patch(edge)


def _draw_text(axis: Axes, cell: Cell, theme: Theme, x: float, y: float, has_bars: bool) -> None:
    """Draw the bar and the lines of a cell from ``(x, y)`` downwards."""
    from matplotlib.patches import Rectangle

    if has_bars:
        start = x
        for part in cell.parts:
            width, colour = PICTURE * part.label, AGE_COLOURS[theme][part.kind]
            axis.add_patch(Rectangle((start, y + 0.04), width, 0.09, fc=colour, ec=GROUND[theme], lw=0.6))
            start += width
    y += 0.17 if has_bars else 0.04
    for i, line in enumerate(cell.lines):
        _write_text(axis, theme, x, y + i * LINE, line, 6.8, CELL - 0.1)


def short(name: str, length: int = 14) -> str:
    """Shorten a name to ``length`` columns so that it fits under a picture."""
    kept = name[: 2 * length]
    if kept == name and columns_of(name) <= length:
        return name
    while columns_of(kept) >= length:
        kept = kept[:-1]
    return f"{kept}…"


def columns_of(text: str) -> int:
    """Return how many columns a text takes: wide letters, such as Chinese ones, take two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def enlarged(picture: Tensor) -> tuple[Tensor, int]:
    """Enlarge a small (3, H, W) picture by repeating pixels; return it and the factor."""
    times = max(1, -(-SHORTEST_SIDE // min(picture.shape[-2:])))
    return repeated(picture, times), times


def repeated(pixels: Tensor, times: int) -> Tensor:
    """Enlarge (..., H, W) pixels by repeating each ``times`` in both directions."""
    return pixels.repeat_interleave(times, -2).repeat_interleave(times, -1)


def scaled(box: tuple[int, int, int, int] | None, times: int) -> tuple[int, int, int, int] | None:
    """Scale a box by ``times``."""
    return None if box is None else (box[0] * times, box[1] * times, box[2] * times, box[3] * times)


def as_bytes(images: Tensor) -> Tensor:
    """Convert (B, 3, H, W) floats in [0, 1] to uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def heaviest(target: Tensor, classes: Sequence[str], count: int = 3) -> list[tuple[str, float]]:
    """Return the heaviest classes of a (K,) target with their weights, down to 1 percent."""
    weights, indices = target.topk(min(count, len(target)))
    return [(classes[k], w) for w, k in zip(weights.tolist(), indices.tolist(), strict=True) if w >= 0.01]


def write_picture(picture: Tensor, path: Path) -> None:
    """Write a (3, H, W) uint8 picture atomically, as JPEG or PNG by the suffix."""
    _write(path, encoded(picture, "png" if path.suffix == ".png" else "jpeg"))


def encoded(picture: Tensor, kind: str | None = None) -> bytes:
    """Encode as PNG or JPEG; by default JPEG for large pictures, of which a page may hold many."""
    held = io.BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.save(
        held, format=kind or ("png" if min(picture.shape[-2:]) < SHORTEST_SIDE else "jpeg"), quality=88
    )
    return held.getvalue()


def write_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure atomically as PNG."""
    _write(path, _png(figure, dpi))


def _png(figure: Figure, dpi: int) -> bytes:
    held = io.BytesIO()
    with drawing_quietly():
        figure.savefig(held, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return held.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as part:
        part.write_bytes(content)
