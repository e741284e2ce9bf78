"""Render a page of text, plots, tables and pictures as one HTML file that needs no network.

Text from data or the command line is escaped by the template or by `embedded`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recursivemix.data.atomic_write import write_text
from recursivemix.data.printable import printable

from .cells import AGES, Cells, encoded, write_cells, write_frames
from .fonts import isolated
from .names import Theme
from .plots import COLOURS, DASHES, SYMBOLS, Figure

if TYPE_CHECKING:
    from jinja2 import Environment

DASH_LENGTHS = {"solid": "", "dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "14 6"}
SHAPES = {
    "circle": "M8 4a4 4 0 1 0 .01 0Z",
    "square": "M4 4h8v8h-8Z",
    "diamond": "M8 3l5 5-5 5-5-5Z",
    "triangle-up": "M8 3l5 9h-10Z",
    "cross": "M6.5 3h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5Z",
    "x": "M5 3l3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3-3-3Z",
    "star": "M8 2.5l1.5 4h4l-3.2 2.5 1.2 4-3.5-2.4-3.5 2.4 1.2-4-3.2-2.5h4Z",
}
"""Plotly's symbols as SVG paths in 16 x 16."""


@dataclass(frozen=True)
class Table:
    """Cells of text; the first cell of a row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A figure, a sentence about it, and the table of its values."""

    title: str
    figure: Figure
    text: str
    table: Table


@dataclass(frozen=True)
class Strip:
    """Pictures side by side in one PNG or JPEG file, with a line of text for each."""

    label: str
    picture: bytes
    captions: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    strips: Sequence[Strip] = ()
    grids: Sequence[Cells] = ()
    codes: Sequence[Code] = ()
    folded: Sequence[Table] = ()
    """Tables that open on demand."""


@dataclass(frozen=True)
class Page:
    """The content of a page."""

    title: str
    answer: str
    facts: str
    labels: Sequence[str]
    """Methods, which the reader can show and hide; their order gives colours, dashes and symbols."""
    sections: Sequence[Section]
    notices: Sequence[str] = field(default=())
    labels_are: str = "Methods in the plots"


def render(page: Page) -> str:
    """Return the HTML of a page; raise ValueError if plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ValueError("a page needs plotly: pip install 'recursivemix[report]'") from error

    folder = resources.files(__package__)
    template = templates().get_template("page.html.jinja")
    key = [
        {
            "label": label,
            "colour": i % COLOURS,
            "dash": DASH_LENGTHS[DASHES[i % len(DASHES)]],
            "shape": SHAPES[SYMBOLS[i % len(SYMBOLS)]],
        }
        for i, label in enumerate(page.labels)
    ]
    return template.render(
        page=page,
        key=key,
        plotly=get_plotlyjs() if any(section.plots for section in page.sections) else "",
        style=(folder / "page.css").read_text() + (folder / "grid.css").read_text(),
        script=(folder / "page.js").read_text(),
    )


def write_grid(
    cells: Cells, out: Path, theme: Theme, *, title: str, facts: str, heading: str, text: Sequence[str]
) -> None:
    """Write a grid of pictures as PNG, GIF or page, by the suffix; the texts are those of the page."""
    if out.suffix.lower() == ".png":
        write_cells(cells, out, theme)
    elif out.suffix.lower() == ".gif":
        write_frames(cells, out, theme)
    else:
        section = Section(heading, text, grids=[cells])
        write_text(out, render(Page(title, cells.title, facts, labels=(), sections=[section])))


def render_grid(cells: Cells) -> str:
    """Return the HTML of a grid, for pages with a template of their own."""
    macro = templates().get_template("grid.html.jinja").module.grid  # type: ignore[attr-defined]
    return str(macro(cells))


def templates(folder: str = "report") -> Environment:
    """Return the Jinja environment of a folder of the package: text is escaped and printable.

    Raises ValueError if Jinja is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ModuleNotFoundError as error:
        raise ValueError("a page needs jinja2: pip install 'recursivemix[report]'") from error
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("recursivemix", folder),
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["isolated"] = isolated
    environment.globals |= {"ages": AGES, "data_uri": data_uri, "embedded": embedded, "encoded": encoded}
    return environment


def data_uri(picture: bytes) -> str:
    """Return a picture as a data URI."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def embedded(value: Any) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
