"""Scenes of handwritten digits: boxes, masks and label maps that need no download.

scikit-learn's digits at several scales, in bright or dark colours, on textured ground. Training scenes
hold digits of `recursivemix.data.formats.digits`'s training split, the others held-out ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from recursivemix.data.annotated import DetectionData, Objects, SegmentationData
from recursivemix.data.images import StackedImages
from recursivemix.data.order import generator_of

from .digits import digits

TRAIN_SCENES, EVALUATION_SCENES = 480, 120
SIDE = 128
"""Pixels a side of a scene."""
SIDES = (16, 24, 32, 48, 64)
"""Of a digit: each a scale that is drawn as often as the others."""
MOST_DIGITS = 4
MOST_OVERLAP = 0.1
"""Of the boxes of two digits: intersection over the smaller one."""
GROUND = "ground"


class Scene(NamedTuple):
    """One image and what is on it."""

    image: Tensor
    """(3, SIDE, SIDE) uint8."""
    objects: Objects
    label_map: Tensor
    """(SIDE, SIDE) uint8: 0 is ground, 1 + k is digit k."""


class SceneObjects:
    """Scenes with their boxes and masks; see `DetectionImages`."""

    def __init__(self, scenes: list[Scene], source: str, masks: bool) -> None:
        self.scenes = scenes
        self.source = source
        self.masks = masks

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        return self.scenes[index].image, self.objects(index)

    def objects(self, index: int) -> Objects:
        """The digits of one scene."""
        objects = self.scenes[index].objects
        return objects if self.masks else objects._replace(masks=None)

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of one scene."""
        return SIDE, SIDE

    def name(self, index: int) -> str:
        """Its place in its split."""
        return f"{self.source}, scene {index}"

    def image_id(self, index: int) -> int:
        """Counted from 1, as COCO's."""
        return index + 1


class SceneMaps:
    """Scenes with their label maps; see `SegmentationImages`."""

    def __init__(self, scenes: list[Scene], source: str) -> None:
        self.scenes = scenes
        self.source = source

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.scenes[index].image, self.scenes[index].label_map

    def name(self, index: int) -> str:
        """Its place in its split."""
        return f"{self.source}, scene {index}"


def scenes_with_objects(masks: bool = False) -> DetectionData:
    """480 training and 120 held-out scenes of 128 x 128 pixels, always the same; the digits are classes."""
    train, held_out, classes = _both_splits()
    return DetectionData(
        train=SceneObjects(train, "digit scenes, train", masks),
        evaluation=SceneObjects(held_out, "digit scenes, held out", masks),
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        split="held out",
        flip=False,  # a mirrored 2 is no 2
        has_masks=masks,
    )


def scenes_with_maps() -> SegmentationData:
    """The same scenes with a class at every pixel: the ground's, or a digit's."""
    train, held_out, classes = _both_splits()
    return SegmentationData(
        train=SceneMaps(train, "digit scenes, train"),
        evaluation=SceneMaps(held_out, "digit scenes, held out"),
        classes=(GROUND, *classes),
        split="held out",
        flip=False,
    )


def _both_splits() -> tuple[list[Scene], list[Scene], tuple[str, ...]]:
    data = digits()
    assert isinstance(data.train, StackedImages)
    assert isinstance(data.evaluation, StackedImages)
    train = [make_scene(data.train, generator_of("scene", "train", i)) for i in range(TRAIN_SCENES)]
    held_out = [
        make_scene(data.evaluation, generator_of("scene", "held out", i)) for i in range(EVALUATION_SCENES)
    ]
    return train, held_out, data.classes


def make_scene(source: StackedImages, generator: torch.Generator) -> Scene:
    """One to four digits at random places and scales; a place that is taken is given up."""
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
        boxes, masks, labels = [*boxes, box], [*masks, mask], [*labels, source.label(which)]
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
    """(3, SIDE, SIDE) in [0, 1]: colour noise of a coarse and a fine grain around a random colour."""
    base = 0.25 + 0.5 * torch.rand(3, 1, 1, generator=generator)
    for cells, strength in ((4, 0.25), (32, 0.15)):
        noise = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
        base = base + strength * interpolate(noise, size=SIDE, mode="bicubic", align_corners=False)[0]
    return base.clamp(0, 1)


def _ink_colour(ground: Tensor, generator: torch.Generator) -> Tensor:
    """(3,): brighter than a dark ground, darker than a bright one."""
    distance = 0.35 + 0.3 * torch.rand(3, generator=generator)
    return (ground + torch.where(ground.mean() < 0.5, distance, -distance)).clamp(0, 1)


def _overlap(box: Tensor, other: Tensor) -> float:
    """Intersection of two boxes, as a share of the smaller one."""
    sides = (torch.minimum(box[2:], other[2:]) - torch.maximum(box[:2], other[:2])).clamp(min=0)
    smaller = min(float((b[2:] - b[:2]).prod()) for b in (box, other))
    return float(sides.prod()) / smaller
