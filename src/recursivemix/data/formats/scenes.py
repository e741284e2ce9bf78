"""Synthetic scenes of handwritten digits, with boxes, masks and label maps; no download is needed.

Scikit-learn's digits at several scales, in bright or dark colours, on textured ground. Training scenes show
digits of the training split of `recursivemix.data.formats.digits`, evaluation scenes held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from recursivemix.data.annotated import AnnotatedFormat, DetectionData, Objects, SegmentationData
from recursivemix.data.images import StackedImages
from recursivemix.data.order import generator_of

from .digits import digits

TRAIN_SCENES, EVALUATION_SCENES = 480, 120
SIDE = 128
"""Side of a scene in pixels."""
SIDES = (16, 24, 32, 48, 64)
"""Sides of a digit in pixels, drawn with equal probability."""
MOST_DIGITS = 4
MOST_OVERLAP = 0.1
"""Largest overlap of the boxes of two digits: intersection over the smaller one."""
GROUND = "ground"


class Scene(NamedTuple):
    """One image with its annotations."""

    image: Tensor
    """(3, SIDE, SIDE) uint8."""
    objects: Objects
    label_map: Tensor
    """(SIDE, SIDE) uint8: 0 is the ground, 1 + k is the digit k."""


class SceneImages:
    """Scenes with `Objects`, as `DetectionImages`, or with label maps, as `SegmentationImages`."""

    def __init__(self, scenes: Sequence[Scene], targets: Sequence[Any], split: str) -> None:
        self.scenes = scenes
        self.targets = targets
        self.split = split

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.scenes[index].image, self.targets[index]

    def objects(self, index: int) -> Objects:
        objects: Objects = self.targets[index]
        return objects

    def size(self, index: int) -> tuple[int, int]:
        return SIDE, SIDE

    def name(self, index: int) -> str:
        return f"digit scenes, {self.split}, scene {index}"

    def image_id(self, index: int) -> int:
        """Return the number of a scene, counted from 1 as in COCO."""
        return index + 1


def scenes_with_objects(masks: bool = False) -> DetectionData:
    """Return 480 training and 120 held-out scenes of 128x128 pixels, always the same, with ten classes."""
    splits, classes = _both_splits()
    train, evaluation = (
        SceneImages(scenes, [s.objects if masks else s.objects._replace(masks=None) for s in scenes], split)
        for split, scenes in splits.items()
    )
    return DetectionData(
        train=train,
        evaluation=evaluation,
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        split="held out",
        flip=False,  # a mirrored digit is not a digit
        has_masks=masks,
    )


def scenes_with_maps() -> SegmentationData:
    """Return the same scenes with a class for every pixel: the ground or a digit."""
    splits, classes = _both_splits()
    train, evaluation = (
        SceneImages(scenes, [s.label_map for s in scenes], split) for split, scenes in splits.items()
    )
    return SegmentationData(train, evaluation, (GROUND, *classes), split="held out", flip=False)


@cache
def _both_splits() -> tuple[dict[str, list[Scene]], tuple[str, ...]]:
    """Return the scenes of each split, and the names of the digits."""
    data = digits()
    splits = {}
    for split, images, count in (
        ("train", data.train, TRAIN_SCENES),
        ("held out", data.evaluation, EVALUATION_SCENES),
    ):
        assert isinstance(images, StackedImages)
        splits[split] = [make_scene(images, generator_of("scene", split, i)) for i in range(count)]
    return splits, data.classes


def make_scene(source: StackedImages, generator: torch.Generator) -> Scene:
    """Draw one to four digits at random positions and scales, except those that overlap another."""
    image = _ground(generator)
    boxes: list[Tensor] = []
    masks: list[Tensor] = []
    labels: list[int] = []
    for _ in range(1 + int(torch.randint(MOST_DIGITS, (1,), generator=generator))):
        which = int(torch.randint(len(source), (1,), generator=generator))
        side = SIDES[int(torch.randint(len(SIDES), (1,), generator=generator))]
        x, y = torch.randint(SIDE - side + 1, (2,), generator=generator).tolist()
        ink = _ink_colour(image[:, y : y + side, x : x + side].mean((1, 2)), generator)
        pixels = source.images[which, :1].float()[None] / 255
        share = interpolate(pixels, size=side, mode="bilinear", align_corners=False, antialias=True)[0, 0]
        drawn = share > 0.4
        rows, columns = drawn.any(1).nonzero()[:, 0], drawn.any(0).nonzero()[:, 0]
        box = torch.stack([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1])
        if any(_overlap(box, other) > MOST_OVERLAP for other in boxes):
            continue
        region = image[:, y : y + side, x : x + side]
        region.copy_(region + share.clamp(0, 1) * (ink[:, None, None] - region))
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[y : y + side, x : x + side] = drawn
        masks = [other & ~mask for other in masks]
        boxes, masks, labels = [*boxes, box], [*masks, mask], [*labels, int(source.labels[which])]
    label_map = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    for mask, label in zip(masks, labels, strict=True):
        label_map[mask] = 1 + label
    stacked = torch.stack(masks)
    objects = Objects(
        boxes=torch.stack(boxes).float(),
        labels=torch.tensor(labels),
        crowd=torch.zeros(len(labels), dtype=torch.bool),
        area=stacked.sum((1, 2)).float(),
        masks=stacked,
    )
    return Scene((255 * image).round().byte(), objects, label_map)


def _ground(generator: torch.Generator) -> Tensor:
    """Draw the ground, (3, SIDE, SIDE) in [0, 1]: coarse and fine colour noise around a random colour."""
    base = 0.25 + 0.5 * torch.rand(3, 1, 1, generator=generator)
    for cells, strength in ((4, 0.25), (32, 0.15)):
        noise = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        base = base + strength * interpolate(noise, size=SIDE, mode="bicubic", align_corners=False)[0]
    return base.clamp(0, 1)


def _ink_colour(ground: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a colour, (3,): brighter than a dark ground, darker than a bright one."""
    distance = 0.35 + 0.3 * torch.rand(3, generator=generator)
    return (ground + torch.where(ground.mean() < 0.5, distance, -distance)).clamp(0, 1)


def _overlap(box: Tensor, other: Tensor) -> float:
    """Return the intersection of two boxes over the area of the smaller one."""
    sides = (torch.minimum(box[2:], other[2:]) - torch.maximum(box[:2], other[:2])).clamp(min=0)
    smaller = min(float((b[2:] - b[:2]).prod()) for b in (box, other))
    return float(sides.prod()) / smaller


SCENES_WITH_OBJECTS = AnnotatedFormat(open=lambda folder, masks, skip_bad: scenes_with_objects(masks))
SCENES_WITH_MAPS = AnnotatedFormat(open=lambda folder, skip_bad: scenes_with_maps())
