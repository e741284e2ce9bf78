"""The pages as people meet them: in headless Chromium, wide, on a phone, dark, on paper, by keyboard."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_up import write_backbones, write_comparison

from recursivemix.compare.compare import PAGE, report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("RECURSIVEMIX_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(BROWSER is None and not REQUIRED, reason="no Chromium is installed")

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

CONTRASTS = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, noscript")) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    let ground = [255, 255, 255];
    for (let e = element; e; e = e.parentElement) {
      const own = parse(getComputedStyle(e).backgroundColor);
      if (own.length === 3 || own[3] > 0) { ground = own; break; }
    }
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Of each kind of page."""
    compared = write_comparison(tmp_path_factory.mktemp("compared"))
    transferred = write_backbones(tmp_path_factory.mktemp("transferred"))
    report(compared)
    report(transferred)
    folders = {"comparison": compared, "transfer": transferred}
    return {kind: (folder / PAGE).absolute().as_uri() for kind, folder in folders.items()}


@contextmanager
def open_page(browser, addresses, kind, width, scheme):
    """The page at a width and in a colour scheme; every message and request is kept."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.messages, page.requests = [], []
    page.on("console", lambda message: page.messages.append(message.text))
    page.on("pageerror", lambda error: page.messages.append(str(error)))
    page.on("request", lambda sent: page.requests.append(sent.url))
    page.kind = kind
    page.goto(addresses[kind])
    page.wait_for_function("document.documentElement.dataset.drawn")
    yield page
    context.close()


WINDOWS = [
    (kind, width, scheme)
    for kind in ("comparison", "transfer")
    for width in (1400, 390)
    for scheme in ("light", "dark")
]


@pytest.fixture(scope="module", params=WINDOWS, ids=lambda param: "-".join(map(str, param)))
def everywhere(browser, addresses, request):
    """Each page in each window, which tests share: they look and open tables, and change nothing else."""
    with open_page(browser, addresses, *request.param) as page:
        yield page


@pytest.fixture
def opened(browser, addresses):
    """The page of a comparison in a wide window."""
    with open_page(browser, addresses, "comparison", 1400, "light") as page:
        yield page


PLOTS = {"comparison": 15, "transfer": 5}


def test_every_plot_is_drawn_without_an_error_or_a_request(everywhere):
    assert everywhere.messages == []
    assert [url[:5] for url in everywhere.requests if not url.startswith("data:")] == ["file:"]
    assert everywhere.evaluate("window.broken") is None
    plots = everywhere.locator(".plot")
    assert plots.count() == PLOTS[everywhere.kind]
    for i in range(plots.count()):
        # Each point is a path of its own; an axis has numbers or names.
        assert plots.nth(i).locator(".scatterlayer .point").count() >= 2
        assert plots.nth(i).locator(".xtick").count() >= 2


def test_nothing_hangs_over_the_edge(everywhere):
    for details in everywhere.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert everywhere.evaluate("document.documentElement.scrollWidth <= innerWidth")
    over = everywhere.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(
             (e) => !e.closest(".scroll, pre, .skip") && e.checkVisibility()
               && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert over == []
    # Nor does text leave its plot, where it would be cut.
    cut = everywhere.evaluate(
        """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
             const box = plot.getBoundingClientRect();
             return [...plot.querySelectorAll("text")].filter((text) => {
               const own = text.getBoundingClientRect();
               return own.width && (own.left < box.left - 1 || own.right > box.right + 1
                 || own.top < box.top - 1 || own.bottom > box.bottom + 1);
             }).map((text) => text.textContent);
           })"""
    )
    assert cut == []


def test_a_long_name_leaves_room_for_its_numbers(everywhere):
    """The first column stays in view when a table is scrolled."""
    shares = everywhere.evaluate(
        "[...document.querySelectorAll('tbody th')].map((e) => e.offsetWidth / innerWidth)"
    )
    assert max(shares) <= 0.55


def test_all_text_has_the_contrast_of_wcag_aa(everywhere):
    for details in everywhere.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    found = everywhere.evaluate(CONTRASTS)
    assert len(found) > {"comparison": 300, "transfer": 100}[everywhere.kind]
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_the_keyboard_reaches_everything(opened):
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(200):
        reached.add(
            opened.evaluate(
                """() => { const e = document.activeElement;
                return e.dataset.label ? "method " + e.dataset.label : e.tagName; }"""
            )
        )
        opened.keyboard.press("Tab")
    assert {"A", "SUMMARY", "DIV", "PRE", "method none", "method cutmix"} <= reached
    # Enter opens a table, and arrows scroll it.
    opened.locator("figure summary").first.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("figure details").first.locator("td").first.is_visible()


def test_a_method_can_be_taken_out_of_the_plots(opened):
    shown = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => plot._fullData)
        .filter((trace) => trace.visible && trace.meta.label === "cutmix").length"""
    assert opened.evaluate(shown) > 0
    opened.locator("[data-label=cutmix]").focus()
    opened.keyboard.press("Space")
    opened.wait_for_function(f"({shown})() === 0")
    opened.keyboard.press("Space")
    opened.wait_for_function(f"({shown})() > 0")
    assert opened.messages == []


def test_on_paper(opened, tmp_path):
    """The plots fit the sheet and take the colours of paper; afterwards the screen's come back."""
    before = opened.locator(".plot svg").first.bounding_box()["width"]
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.wait_for_function("document.querySelector('.plot svg').getBoundingClientRect().width === 640")
    assert opened.evaluate("document.documentElement.classList.contains('paper')")
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.wait_for_function(
        f"document.querySelector('.plot svg').getBoundingClientRect().width === {before}"
    )
    opened.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
    assert Path(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
