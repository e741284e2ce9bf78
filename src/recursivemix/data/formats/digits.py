"""Handwritten digits that are installed with scikit-learn: a first run needs no download."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from recursivemix.data.images import ImageData, ImageFormat, StackedImages


def digits() -> ImageData:
    """Return 1,797 digits of 8x8 pixels (UCI; scikit-learn's ``load_digits``), upsampled to 32x32.

    1,437 images are for training and 360 are held out; the split is stratified and always the same.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    grey = torch.from_numpy(source.images).float() * (255 / 16)  # (N, 8, 8), values 0..16
    large = interpolate(grey[:, None], size=32, mode="bilinear", align_corners=False)
    images = large.round().byte().repeat(1, 3, 1, 1)  # (N, 3, 32, 32)
    labels = torch.from_numpy(source.target).long()
    train, held_out = (
        torch.from_numpy(part)
        for part in train_test_split(
            torch.arange(len(labels)).numpy(), test_size=360, stratify=source.target, random_state=0
        )
    )
    share = images[train].float() / 255
    mean, std = share.mean().item(), share.std().item()
    return ImageData(
        train=StackedImages(images[train], labels[train], "digits, train"),
        evaluation=StackedImages(images[held_out], labels[held_out], "digits, held out"),
        classes=tuple(str(name) for name in source.target_names),
        image_size=32,
        mean=(mean, mean, mean),
        std=(std, std, std),
        flip=False,  # a mirrored digit is not a digit
        split="held out",
    )


DIGITS = ImageFormat(
    open=lambda settings, seed: digits(),
    detect=lambda settings: settings.data is None and settings.table is None,
    needs=None,
)
