"""The file of a preview: a PNG, a GIF or a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recursivemix.data.printable import counted
from recursivemix.report.cells import Cell
from recursivemix.report.names import Theme
from recursivemix.report.page import write_grid

from .captions import COUNTED, VISIBLE
from .mixed_cells import in_rows


def write_preview(
    columns: list[list[Cell]], mixer: str, theme: Theme, out: Path, key: tuple[tuple[str, str], ...] = ()
) -> Path:
    """Write the cells of each iteration as a PNG, a GIF or a page, by the suffix; return the file.

    ``key`` holds names and colours of the classes that are drawn over the pictures.
    """
    text = [
        "Under each picture: its label by source image, from its own to the oldest, and by class; lam, the "
        "weight of its own image; and the pasted box, x1 y1 x2 y2 in pixels.",
        f"A source is visible with at least {100 * VISIBLE:g} % of the pixels, and in the label with a "
        f"weight of at least {100 * COUNTED:g} %.",
    ]
    cells = in_rows(f"{mixer}, the first {counted(len(columns), 'iteration')}", columns)
    cells = replace(cells, key=key)
    facts = "Each row is a sample, each column an iteration."
    write_grid(cells, out, theme, title="Mixed batches", facts=facts, heading=mixer, text=text)
    return out
