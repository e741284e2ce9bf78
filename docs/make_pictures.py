"""Draws the pictures of README and docs, from data that ships with scikit-learn and from ``results/``.

    python docs/make_pictures.py

The picture of the page is taken in Chromium, which must be installed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from recursivemix import RecursiveMix
from recursivemix.data.augment import colour_scale, normalise
from recursivemix.data.digits import digits
from recursivemix.data.images import StackedImages
from recursivemix.explain.gallery import draw_gallery

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAMPLES = 4, 8


def main() -> None:
    """Draw all of them."""
    mixed_batches(ROOT / "docs" / "images" / "mixed_batches.png")
    page(ROOT / "results" / "compare" / "cifar10" / "page.html", ROOT / "docs" / "images" / "compare.png")


def page(source: Path, target: Path) -> None:
    """The beginning of a comparison's page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        opened = browser.new_page(viewport={"width": 1000, "height": 1180})
        opened.goto(source.as_uri())
        opened.wait_for_function("document.documentElement.dataset.drawn")
        opened.screenshot(path=target)
        browser.close()


def mixed_batches(target: Path) -> None:
    """Four consecutive steps of the paper's method."""
    data = digits()
    assert isinstance(data.train, StackedImages)
    colours = colour_scale(data.mean, data.std, torch.device("cpu"))
    mixer = RecursiveMix.paper(len(data.classes), seed=0)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    batches = []
    for step in range(STEPS):
        chosen = order[step * SAMPLES : (step + 1) * SAMPLES]
        batch = mixer(normalise(data.train.images[chosen], colours), data.train.labels[chosen])
        mixer.remember(batch, torch.zeros_like(batch.targets))
        batches.append(batch)
    figure = draw_gallery(batches, data.classes, data.mean, data.std, SAMPLES)
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    main()
