"""Draws the pictures of README and docs with the project's own commands, light and dark.

    python docs/make_pictures.py [NAME ...]

Images are scikit-learn's sample photographs and its digits; nothing is downloaded. Two networks are trained
on the digits for `explain`, about two minutes. Pictures of pages are taken in Chromium, which must be
installed.
"""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright

from recursivemix.cli import main as recursivemix
from recursivemix.report.cells import GROUND, INK
from recursivemix.report.names import Theme

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
THEMES: tuple[Theme, ...] = ("light", "dark")
CARDS = {
    "cutout": 2, "mixup": 2, "cutmix": 2, "saliencymix": 2, "gridmix": 2, "fmix": 2, "smoothmix": 2,
    "resizemix": 2, "alternate": 4, "dlb": 3,
}  # fmt: skip
"""Methods that act on images alone, and how many steps their card shows."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of the methods, after Okabe and Ito; they read on both grounds."""
EPOCHS = 15


def main() -> None:
    """Draw all of them, or the named ones."""
    pictures: dict[str, Callable[[], None]] = {
        "recursion": recursion,
        "cards": cards,
        "masks": masks,
        "statistics": statistics,
        "when": when,
        "scaling": scaling,
        "explain": explain,
        "studio": studio,
        "compare": partial(
            page, ROOT / "results" / "compare" / "cifar10" / "page.html", IMAGES / "compare.webp"
        ),
    }
    for name in sys.argv[1:] or pictures:
        pictures[name]()


def draw(target: str, *words: str) -> None:
    """One command in both themes."""
    for theme in THEMES:
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder, "drawn.png")
            if recursivemix([*words, "--theme", theme, "--out", str(drawn)]):
                sys.exit(f"{target} was not drawn")
            save_small(drawn, IMAGES / f"{target}-{theme}.webp")


def save_small(drawn: Path | BytesIO, target: Path) -> None:
    """Write a picture as WebP, a quarter of its size as PNG."""
    with Image.open(drawn) as image:
        image.convert("RGB").save(target, quality=88, method=6)


def save_figure(figure: Figure, name: str) -> None:
    """Write a plot."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=140, format="png")
    save_small(drawn, IMAGES / f"{name}.webp")


def recursion() -> None:
    """Six steps of the paper's method: README begins with it."""
    draw("recursion", "preview", "--steps", "6", "--samples", "2", "--seed", "5")


def cards() -> None:
    """Two or three steps of the methods that act on images."""
    for name, steps in CARDS.items():
        words = ("--mixer", name, "--steps", str(steps), "--samples", "2", "--seed", "3")
        # Two of eight images: with two alone, each would often be mixed with itself.
        draw(f"methods/{name}", "preview", *words, "--batch-size", "8")


def masks() -> None:
    """Objects that are mixed with their masks."""
    draw("masks", "preview", "--task", "instance", "--steps", "5", "--samples", "2")


def statistics() -> None:
    """The process at ImageNet's size: the draws of results/statistics-224.json, three minutes a theme."""
    draw("statistics", "statistics", "--size", "224", "--batches", "20000", "--batch-size", "1")


def when() -> None:
    """Gain of every method over none, by how far none has fit its training images; from the records."""
    comparisons = runpy.run_path(str(ROOT / "docs" / "make_tables.py"))["comparisons_by_fit"]()
    shown = {
        "cutmix": "cutmix",
        "recursivemix": "recursivemix",
        "gentle": "recursivemix, half of the batches, small boxes",
        "resizemix": "resizemix",
        "mixup": "mixup",
        "turns-cut": "recursivemix and cutmix by turns",
    }
    for theme in THEMES:
        figure = Figure(figsize=(7.2, 3.6), facecolor=GROUND[theme], layout="constrained")
        axis = figure.subplots()
        axis.axhline(0, color=INK[theme], linewidth=0.8)
        for place, (name, marker, colour) in enumerate(zip(shown, "osD^vP", COLOURS, strict=True)):
            for record in comparisons:
                for pair in (pair for pair in record["gains"] if pair["method"] == name):
                    x = record["train_loss"] * 1.04 ** (place - 2)  # side by side, not one over the other
                    if pair["low"] is not None:
                        axis.plot([x, x], [pair["low"], pair["high"]], color=colour, linewidth=1.4)
                    axis.plot([x], [pair["mean"]], marker, color=colour, label=shown[name], markersize=6)
        handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        axis.legend(handles.values(), handles.keys(), fontsize=8, labelcolor=INK[theme], frameon=False)
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xlabel(
            "training loss of none in its last epoch: memorized to the right", fontsize=9, color=INK[theme]
        )
        axis.set_ylabel("accuracy over none, points", fontsize=9, color=INK[theme])
        dress(axis, theme)
        save_figure(figure, f"when-{theme}")


def scaling() -> None:
    """Milliseconds over classes, batch, size and ranks, from results/scaling.json."""
    record = json.loads((ROOT / "results" / "scaling.json").read_text())
    axes = record["settings"]["axes"]
    titles = runpy.run_path(str(ROOT / "docs" / "make_tables.py"))["AXIS_NAMES"]
    names = list(dict.fromkeys(row["name"] for row in record["rows"]))
    for theme in THEMES:
        figure = Figure(figsize=(9.6, 3.4), facecolor=GROUND[theme], layout="constrained")
        plots = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
        for (axis, values), plot in zip(axes.items(), plots, strict=True):
            for name, marker, colour in zip(names, "osD^", COLOURS, strict=False):
                rows = [row for row in record["rows"] if (row["axis"], row["name"]) == (axis, name)]
                at, times = [row["value"] for row in rows], [row["median_ms"] for row in rows]
                plot.plot(at, times, marker, linestyle="-", color=colour, label=name, markersize=4)
            plot.set_xscale("log")
            plot.set_yscale("log")
            plot.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
            plot.minorticks_off()
            plot.set_xlabel(titles[axis], fontsize=9, color=INK[theme])
            dress(plot, theme)
        plots[0].set_ylabel("milliseconds", fontsize=9, color=INK[theme])
        plots[0].legend(fontsize=8, labelcolor=INK[theme], frameon=False)
        save_figure(figure, f"scaling-{theme}")


def dress(axis: Axes, theme: Theme) -> None:
    """Give the plot the colours of the theme."""
    axis.set_facecolor(GROUND[theme])
    axis.tick_params(colors=INK[theme], labelsize=8)
    for side in axis.spines.values():
        side.set_color(INK[theme])


def explain() -> None:
    """Where two networks look that were trained on the digits, without mixing and with it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = []
        for mixer in ("none", "recursivemix"):
            run = Path(folder) / mixer
            recursivemix(["fit", "--mixer", mixer, "--epochs", str(EPOCHS), "--out", str(run)])
            checkpoints += ["--checkpoint", str(run / "checkpoints" / "last.ckpt")]
        draw("explain", "explain", *checkpoints, "--count", "3", "--top", "2")


def studio() -> None:
    """The live page after some steps."""
    command = [str(Path(sys.executable).with_name("recursivemix")), "studio", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split()[0]
            for theme in THEMES:
                page(f"{address}#step=6&seed=5", IMAGES / f"studio-{theme}.webp", theme, 860)
        finally:
            server.terminate()


def page(source: Path | str, target: Path, theme: str = "light", height: int = 1180) -> None:
    """The beginning of a page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        opened = browser.new_page(
            viewport={"width": 1000, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
        )
        opened.goto(source if isinstance(source, str) else source.as_uri())
        opened.locator("html[data-drawn]:not([data-drawn=''])").wait_for(state="attached")
        save_small(BytesIO(opened.screenshot()), target)
        browser.close()


if __name__ == "__main__":
    main()
