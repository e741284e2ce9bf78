"""Find fonts for the letters of a text: matplotlib's own has no Chinese, Japanese, Korean or Indic ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import NamedTuple

NOTE = "No installed font has the letters drawn as boxes: install one that has, such as Noto Sans CJK."
RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc](?:[ _-]*[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc])*"
)
"""Words in Hebrew, Arabic and the like."""


def isolated(text: str) -> str:
    """Isolate words that are written right to left: numbers after them would change places with them."""
    return RIGHT_TO_LEFT.sub("\u2068\\g<0>\u2069", text)


class Font(NamedTuple):
    """A family of fonts, and the file of its regular letters."""

    family: str
    file: str


def fonts_for(text: str) -> tuple[list[Font], bool]:
    """Return fonts that have the letters of a text, matplotlib's own first, and whether they have all."""
    from matplotlib import get_data_path

    own = Font("DejaVu Sans", f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    fonts, missing = [own], {ord(letter) for letter in text if letter.isprintable()} - letters_of(own.file)
    for font in installed_fonts() if missing else []:
        if missing & letters_of(font.file):
            fonts.append(font)
            missing -= letters_of(font.file)
    return fonts, not missing


def installed_fonts() -> list[Font]:
    """Return the fonts of this machine, regular weights first; matplotlib's list may lack new ones."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for file in set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}:
        with suppress(OSError, RuntimeError):  # a font that matplotlib cannot draw
            fontManager.addfont(file)
    upright = (font for font in fontManager.ttflist if font.style == "normal")
    # "Last Resort" has boxes alone.
    real = [font for font in upright if not font.name.startswith(("DejaVu", "Last Resort"))]
    real.sort(key=lambda font: (font.weight not in (400, "normal"), font.name))
    return [Font(font.name, font.fname) for font in real]


@cache
def letters_of(file: str) -> frozenset[int]:
    """Return the code points that a font file has glyphs for."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # a file that has been removed, or that matplotlib cannot read
        return frozenset()


@contextmanager
def drawing_quietly(fonts: Sequence[Font] = ()) -> Iterator[None]:
    """Draw each letter in the first font that has it; letters that no font has become boxes, silently."""
    from matplotlib import rc_context

    families = [font.family for font in fonts]
    with rc_context({"font.family": families} if fonts else {}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
