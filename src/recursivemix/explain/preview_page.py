"""The file of a preview: a PNG, a GIF or a page."""

from __future__ import annotations

from pathlib import Path

from recursivemix.data.atomic_write import write_text
from recursivemix.report.cells import Cell, Cells, write_cells, write_frames
from recursivemix.report.names import Theme
from recursivemix.report.page import Page, Section, render

from .captions import COUNTED, VISIBLE
from .mixed_cells import in_rows


def write_preview(columns: list[list[Cell]], mixer: str, theme: Theme, out: Path) -> Path:
    """Write the cells of each iteration as a PNG, a GIF or a page, by the suffix; return the file."""
    cells = in_rows(f"{mixer}, the first {len(columns)} iterations", columns)
    if out.suffix.lower() == ".gif":
        write_frames(cells, out, theme)
    elif out.suffix.lower() == ".png":
        write_cells(cells, out, theme)
    else:
        write_text(out, render(preview_page(cells, mixer)))
    return out


def preview_page(cells: Cells, mixer: str) -> Page:
    """Return the page of a preview."""
    text = [
        "Under each picture: its label by source image, from its own to the oldest, and by class; lam, the "
        "weight of its own image; and the pasted box, x1 y1 x2 y2 in pixels.",
        f"A source is visible with at least {100 * VISIBLE:g} % of the pixels, and in the label with a "
        f"weight of at least {100 * COUNTED:g} %.",
    ]
    return Page(
        title="Mixed batches",
        answer=cells.title,
        facts="Each row is a sample, each column an iteration.",
        labels=(),
        sections=[Section(mixer, text, grids=[cells])],
    )
