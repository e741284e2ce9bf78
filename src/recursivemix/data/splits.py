"""Stratified splits of labelled images: a held-out share, folds, a random subset.

Images of several labels are stratified by the rarest of their labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recursivemix.models import SMALL_IMAGE

from .decode import Decoding, map_decoding
from .images import IMAGENET_MEAN, IMAGENET_STD, EncodedImages, ImageData, LabelledImages, spread_indices
from .settings import ImageSettings

SPLIT_OPTIONS = frozenset({"val_split", "folds", "fold", "image_size"})
"""Fields of `ImageSettings` that apply to formats whose data set `image_data` makes."""


class NoEvaluationSplitError(ValueError):
    """There is no evaluation split, and no option that makes one."""


def strata(labels: Tensor) -> list[tuple[int, Tensor]]:
    """Return each stratum that has images, ascending, with their indices.

    The strata of (N,) class indices are the classes. Those of (N, K) multi-hot labels are the rarest label
    of each image, and K for images without a label.
    """
    if labels.ndim == 2:
        counts = torch.where(labels > 0, labels.sum(0, dtype=torch.long), len(labels) + 1)
        rarest = counts.min(1)
        labels = torch.where(rarest.values > len(labels), labels.shape[1], rarest.indices)
    order = labels.argsort(stable=True)
    values, sizes = torch.unique(labels, return_counts=True)
    return list(zip(values.tolist(), torch.split(order, sizes.tolist()), strict=True))


def held_out(labels: Tensor, classes: Sequence[str], share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out a share in (0, 1) of each stratum: at least one image, and never all.

    Returns:
        Indices of the kept and of the held-out images, ordered by stratum and then by index.

    Raises:
        ValueError: a class has one image only, which a label of several per image may have unless all do.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held = [], []
    for label, members in strata(labels):
        if len(members) == 1 and labels.ndim == 1:
            raise ValueError(
                f"class {classes[label]!r} has one image, which cannot be both trained on and held out"
            )
        order = torch.randperm(len(members), generator=generator)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[order[:count].sort().values])
        kept.append(members[order[count:].sort().values])
    if not sum(map(len, held)):
        raise ValueError("no two images share their rarest label, so none can be held out: add images")
    return torch.cat(kept), torch.cat(held)


def without_fold(
    labels: Tensor, classes: Sequence[str], folds: int, fold: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Split into the images of all other folds and those of one fold.

    Each stratum is shuffled and dealt out to the folds in turn; the next one goes on where the last one
    stopped. Folds therefore differ by one image at most, in total and in each stratum. All folds of one
    seed are a partition.

    Returns:
        Indices of the images to train on and to evaluate on, ascending.

    Raises:
        ValueError: there are fewer images than folds, or a class of single labels has fewer.
    """
    if len(labels) < folds:
        raise ValueError(f"--folds {folds} needs as many images, got {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    fold_of = torch.empty(len(labels), dtype=torch.long)
    first = 0
    for label, members in strata(labels):
        if len(members) < folds and labels.ndim == 1:
            raise ValueError(
                f"class {classes[label]!r} has {len(members)} images, fewer than --folds {folds}: choose "
                f"at most {len(members)} folds"
            )
        order = torch.randperm(len(members), generator=generator)
        fold_of[members[order]] = (first + torch.arange(len(members))) % folds
        first += len(members)
    return (fold_of != fold).nonzero()[:, 0], (fold_of == fold).nonzero()[:, 0]


def stratified_subset(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose ``count`` random images with about the shares of all strata; return their indices, ascending.

    Raises:
        ValueError: ``count`` is above the number of images, or below the number of strata.
    """
    groups = strata(labels)
    if not len(groups) <= count <= len(labels):
        raise ValueError(
            f"--train-images must be in {len(groups)}..{len(labels)} (one image of each class, all "
            f"images), got {count}"
        )
    # The position of each image in its shuffled stratum, in [0, 1): small positions hold all evenly.
    position = torch.empty(len(labels), dtype=torch.float64)
    for _, members in groups:
        position[members] = torch.randperm(len(members), generator=generator).double() / len(members)
    # Equal positions, such as the first of each stratum, in random order.
    shuffled = torch.randperm(len(labels), generator=generator)
    return shuffled[position[shuffled].argsort(stable=True)[:count]].sort().values


def without_unreadable(images: EncodedImages, classes: Sequence[str], skipped: list[str]) -> EncodedImages:
    """Decode all images and return those that can be decoded, some of each class; list the others."""

    def decode(index: int) -> None:
        images[index]

    reasons = map_decoding(decode, range(len(images)), workers=min(os.cpu_count() or 1, 8), progress=True)
    good = torch.tensor([reason is None for reason in reasons])
    for label, members in strata(images.labels):
        if label < len(classes) and not good[members].any():
            first = int(members[0])
            raise ValueError(
                f"--skip-bad leaves no image of the class {classes[label]!r}: fix its images or remove the "
                f"class from every split; the first is {images.name(first)}: {reasons[first]}"
            )
    skipped += [f"{images.name(i)}: {reason}" for i, reason in enumerate(reasons) if reason is not None]
    return images.select(good.nonzero()[:, 0])


def image_data(
    settings: ImageSettings,
    seed: int,
    classes: tuple[str, ...],
    images: Mapping[str, EncodedImages],
    skipped: Sequence[str] = (),
) -> ImageData:
    """Make the data set of natural images, with ImageNet's colour statistics.

    Args:
        settings: how to split, and the image size.
        seed: of the held-out share or the folds.
        classes: names of the classes.
        images: "train" and an evaluation split; or "train" alone, of which ``settings`` hold some out. With
            ``holdout``, `open_images` does that for every format, so "train" may be the evaluation split.
        skipped: images that were left out already, with the reason.

    Raises:
        ValueError: there is no evaluation split and no option to make one, or both.
    """
    if settings.holdout is not None:
        images = {"train": images["train"]}
    split = next((name for name in images if name != "train"), None)
    check_split(settings, split)  # before all images are decoded
    decoding = Decoding(settings.exact_decoding, settings.max_pixels)
    images = {name: part.decoded(decoding) for name, part in images.items()}
    left_out = list(skipped)
    if settings.skip_bad:
        images = {name: without_unreadable(part, classes, left_out) for name, part in images.items()}
    train = images["train"]
    evaluation = train if split is None else images[split]
    if settings.folds is not None:
        kept, held = without_fold(train.labels, classes, settings.folds, settings.fold, seed)
        train, evaluation = train.select(kept), train.select(held)
    elif settings.val_split is not None:
        kept, held = held_out(train.labels, classes, settings.val_split, seed)
        train, evaluation = train.select(kept), train.select(held)
    return ImageData(
        train=train,
        evaluation=evaluation,
        classes=classes,
        image_size=settings.image_size or network_size(images["train"]),  # the same for all folds and seeds
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
        split=split or "held out",
        skipped=tuple(left_out),
    )


def check_split(settings: ImageSettings, split: str | None) -> None:
    """Raise ValueError unless there is one way to evaluate: the split of this name, or an option."""
    source = settings.table or settings.data
    for name, value in (("--val-split", settings.val_split), ("--folds", settings.folds)):
        if split is not None and value is not None:
            raise ValueError(
                f"{source} has a {split} split, so {name} has nothing to split: leave it out, or hold out "
                f"a share of the training images with --holdout 0.2"
            )
    if (split, settings.val_split, settings.folds, settings.holdout) == (None,) * 4:
        raise NoEvaluationSplitError(
            f"{source} has no labelled val or test split: add one, or hold out a share with --val-split 0.2"
        )


def network_size(images: LabelledImages) -> int:
    """Choose the side of the network's input from some images: their own up to `SMALL_IMAGE`, else 224."""
    largest = max(min(images.size(index)) for index in spread_indices(images, 16).tolist())
    return largest if largest <= SMALL_IMAGE else 224
