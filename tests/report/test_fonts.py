"""Letters that matplotlib's own font lacks, and words written from right to left."""

import warnings

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from recursivemix.report.cells import Cell, Cells, draw_cells
from recursivemix.report.fonts import NOTE, fonts_for, isolated

PICTURE = torch.zeros(3, 160, 160, dtype=torch.uint8)
OWN, CAT, RARE = "DejaVu Sans", "\u732b", "\U000109ff"
"""Matplotlib's font, a Chinese letter, and a Meroitic one that hardly any font has."""


@pytest.fixture(autouse=True)
def no_other_fonts(monkeypatch):
    """A machine with matplotlib's own fonts alone."""
    own = [font for font in fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", own)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)


@pytest.fixture
def cat_font(tmp_path, monkeypatch):
    """A font with one letter, a square, that was installed after matplotlib made its list."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord(CAT): "cat"})
    font.setupGlyf({".notdef": pen.glyph(), "cat": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "cats.ttf")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(tmp_path / "cats.ttf")])
    return "Cats"


def drawn_texts(*names):
    """What a grid of one cell shows, by text."""
    grid = Cells("", ("",), ((Cell(PICTURE, names),),), ("",))
    (axis,) = draw_cells(grid, "light").axes
    return {text.get_text(): text for text in axis.texts}


def test_an_installed_font_has_the_letters_that_the_own_one_lacks(cat_font):
    for text, families, complete in (
        ("a cat", [OWN], True), (f"a {CAT}", [OWN, cat_font], True), (CAT + RARE, [OWN, cat_font], False),
    ):  # fmt: skip
        fonts, has_all = fonts_for(text)
        assert ([font.family for font in fonts], has_all) == (families, complete)
    texts = drawn_texts(f"a {CAT}")
    assert texts[f"a {CAT}"].get_fontfamily() == [OWN, cat_font]
    assert NOTE not in texts


def test_a_note_says_where_no_font_has_a_letter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NOTE in drawn_texts(RARE)
    assert NOTE not in drawn_texts("plain")


def test_words_from_right_to_left_do_not_move_the_numbers_after_them():
    name = "\u0642\u0637\u0629 \u0635\u063a\u064a\u0631\u0629"
    assert isolated(f"{name} 71%, cat 29%, {name} 3%") == (
        f"\u2068{name}\u2069 71%, cat 29%, \u2068{name}\u2069 3%"
    )
    assert isolated(f"caf\u00e9 {CAT} 71%") == f"caf\u00e9 {CAT} 71%"
    assert f"\u2068{name}\u2069 71%" in drawn_texts(f"{name} 71%")
