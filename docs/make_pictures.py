"""Draws the pictures of README and docs from data that ships with scikit-learn.

python docs/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from recursivemix import RecursiveMix
from recursivemix.data.augment import colour_scale, normalise
from recursivemix.data.digits import digits
from recursivemix.data.images import StackedImages
from recursivemix.explain.gallery import draw_gallery

STEPS, SAMPLES = 4, 8


def main() -> None:
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
    figure.savefig(Path(__file__).parent / "images" / "mixed_batches.png", dpi=90)


if __name__ == "__main__":
    main()
