"""Grids of pictures: what is written fits, and no frame of a GIF is cut off."""

import pytest
import torch
from PIL import Image

from recursivemix.report.cells import (
    AGES,
    CELL,
    Cell,
    Cells,
    Part,
    columns_of,
    draw_cells,
    fitting,
    short,
    write_frames,
)

PICTURE = torch.zeros(3, 160, 160, dtype=torch.uint8)
CAT = "\u732b"
"""A Chinese letter."""


def test_a_line_is_no_wider_than_its_cell():
    line = "AUTOMOBILE 75%, AIRPLANE WOW 22%"  # 138 points at the usual size; a cell has 126
    (axis,) = draw_cells(Cells("", ("",), ((Cell(PICTURE, ("short", line)),),), ("",)), "light").axes
    sizes = {text.get_text(): text.get_fontsize() for text in axis.texts}
    assert sizes["short"] == 6.8
    assert 5 < sizes[line] < 6.8
    assert fitting(line, sizes[line], CELL - 0.1) == pytest.approx(sizes[line])


def test_names_are_cut_by_their_width():
    assert short("fourteen cats!") == "fourteen cats!"
    assert short("a name of many letters") == "a name of man…"
    assert short(CAT * 7) == CAT * 7
    assert short(CAT * 8) == CAT * 6 + "…"
    assert columns_of(short(CAT * 100_000, 21)) <= 21


def test_a_gif_is_as_large_as_its_largest_frame(tmp_path):
    """The legend grows with the ages that occur, and pictures may have other shapes."""
    parts = [Part("cat", 0.1, 0.1, kind) for kind in range(len(AGES))]
    first = Cell(PICTURE, ("lam 1.000",), (parts[0],))
    last = Cell(torch.zeros(3, 240, 160, dtype=torch.uint8), ("lam 0.500",), tuple(parts))
    columns = ("iteration 1", "iteration 2")
    write_frames(Cells("mixed", columns, ((first, last),), ("",)), tmp_path / "p.gif", "dark")
    alone = draw_cells(Cells("mixed, iteration 2", ("",), ((last,),), ("",)), "dark")
    with Image.open(tmp_path / "p.gif") as image:
        assert image.size == pytest.approx(100 * alone.get_size_inches(), abs=1)
