"""Overlapping crops of two colour photographs that ship with scikit-learn, for pictures only."""

from __future__ import annotations

import torch

from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageData, StackedImages

SIDE = 224
ROWS, COLUMNS = 6, 16
PARTS = "parts of photographs"
"""Name of their split."""


def photographs() -> ImageData:
    """Return 192 images of 224x224 pixels in two classes; both splits are the same images."""
    from sklearn.datasets import load_sample_images

    parts, labels = [], []
    source = load_sample_images()
    for label, photograph in enumerate(source.images):
        pixels = torch.from_numpy(photograph.copy()).permute(2, 0, 1)  # (3, 427, 640) uint8
        height, width = pixels.shape[1:]
        for row in range(ROWS):
            for column in range(COLUMNS):
                y, x = row * (height - SIDE) // (ROWS - 1), column * (width - SIDE) // (COLUMNS - 1)
                parts.append(pixels[:, y : y + SIDE, x : x + SIDE])
                labels.append(label)
    images = StackedImages(torch.stack(parts), torch.tensor(labels), "parts of photographs")
    return ImageData(
        train=images,
        evaluation=images,
        classes=("temple", "flower"),
        image_size=SIDE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
        split=PARTS,
    )
