"""The parts of a page: everything is escaped, every plot has its table, colours can be read."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from importlib import resources

import pytest

from recursivemix.report.page import Code, Page, Plot, Section, Strip, Table, embedded, render
from recursivemix.report.plots import COLOURS, DASHES, SYMBOLS, Series, forest, lines, points

EVIL = "</script><script>alert(1)</script>&\"'<b>"


class Elements(HTMLParser):
    """Tags in order, and the text of each kind."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def page(**parts) -> str:
    section = Section("A section", **parts)
    return render(Page("title", "answer", "facts", ["none", EVIL], [section], ["notice"]))


def series(label: str = "none", place: int = 0) -> Series:
    return Series(label, place, [1, 2], [3.0, 4.0], [2.0, 3.5], [4.0, 4.5])


def own_part(html: str) -> str:
    """The file without plotly's own source."""
    return html[: html.rindex("</main>")]


def test_whatever_the_names_hold_it_is_text():
    plain = page(tables=[Table("t", ["a"], [["x"]])])
    figure = lines([series(EVIL, 1)], EVIL, EVIL)
    plot = Plot(EVIL, figure, EVIL, Table(EVIL, [EVIL], [[EVIL, EVIL]]))
    evil = page(
        text=[EVIL], tables=[Table(EVIL, [EVIL], [[EVIL]])], plots=[plot],
        strips=[Strip(EVIL, b"x", [EVIL])], codes=[Code(EVIL, EVIL)],
        folded=[Table(EVIL, [EVIL], [[EVIL]])],
    )  # fmt: skip
    for html, scripts in ((plain, 1), (evil, 3)):
        elements = Elements()
        elements.feed(html)
        assert elements.tags.count("script") == scripts
    assert "alert(1)</script>" not in own_part(evil)
    assert "<b>" not in own_part(evil)


def test_figures_come_back_from_the_page_as_they_went_in():
    figure = lines([series(EVIL)], "x", "y", diagonal=1.0)
    html = page(plots=[Plot("p", figure, "text", Table("t", ["a"], [["x"]]))])
    found = re.search(r'<script type="application/json">(.*?)</script>', html)
    assert json.loads(found[1]) == json.loads(json.dumps(figure))
    # plotly reads tags in names; the label that the page looks methods up by stays as it is.
    assert unescape(figure["data"][-1]["name"]) == EVIL
    assert "<" not in figure["data"][-1]["name"]
    assert figure["data"][-1]["meta"]["label"] == EVIL
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded({"x": float("nan")})


def test_nothing_is_fetched():
    html = own_part(page(strips=[Strip("s", b"png", ["c"])]))
    assert set(re.findall(r'(?:src|href)="([^"#]{0,5})', html)) <= {"data:", ""}
    assert "url(" not in html
    assert "@import" not in html


def test_lines_have_bands_where_there_are_intervals():
    with_band = lines([series()], "x", "y")["data"]
    assert with_band[0]["y"] == [4.0, 4.5, 3.5, 2.0]
    assert with_band[0]["x"] == [1, 2, 2, 1]
    without = Series("one", 0, [1, 2], [3.0, 4.0], [None, None], [None, None])
    assert len(lines([without], "x", "y")["data"]) == 1


def test_intervals_reach_where_they_should():
    (trace,) = points([Series("a", 0, [5.0], [3.0], [2.5], [4.0])], "x", "y")["data"]
    assert (trace["error_y"]["array"], trace["error_y"]["arrayminus"]) == ([1.0], [0.5])
    (trace,) = forest([Series("a", 0, [3.0], [], [2.5], [4.0])], "x")["data"]
    assert (trace["error_x"]["array"], trace["error_x"]["arrayminus"]) == ([1.0], [0.5])
    (trace,) = forest([Series("a", 0, [3.0], [], [None], [None])], "x")["data"]
    assert trace["error_x"] == {"visible": False}


def test_differences_show_zero_and_levels_need_not():
    row = Series("a", 0, [3.0], [], [2.5], [4.0])
    assert forest([row], "x")["layout"]["xaxis"]["rangemode"] == "tozero"
    assert forest([row], "x", zero=False)["layout"]["xaxis"]["rangemode"] == "normal"


def test_methods_look_different():
    looks = {(i % COLOURS, DASHES[i % len(DASHES)], SYMBOLS[i % len(SYMBOLS)]) for i in range(280)}
    assert len(looks) == 280


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_from_the_ground_light_dark_and_on_paper():
    """WCAG AA: 4.5 for text, 3 for lines and marks."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (resources.files("recursivemix.report") / "page.css").read_text()
    themes = re.findall(r":root[.\w]* \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for text in ("ink", "soft", "link"):
            for ground in ("ground", "panel"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ink"], colours["notice"]) >= 4.5
        for i in range(COLOURS):
            assert contrast(colours[f"c{i}"], colours["ground"]) >= 3
            assert contrast(colours[f"c{i}"], colours["panel"]) >= 3
