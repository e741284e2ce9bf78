"""Boxes, masks and label maps drawn over a picture, a colour a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from recursivemix.data.annotated import IGNORE
from recursivemix.mixing import DenseTarget

COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff",
    "#7a5230", "#a6e3c5", "#4b2e83", "#999999", "#8c1c13", "#f7c8da", "#1b4d3e", "#c5b800",
)  # fmt: skip
"""Of classes, in turn; the first eight after Okabe and Ito, the rest between them in lightness."""


def colour_of(label: int) -> str:
    """The colour of a class."""
    return COLOURS[label % len(COLOURS)]


def draw_target(picture: Tensor, target: DenseTarget | Tensor, times: int) -> Tensor:
    """A (3, H, W) uint8 picture, ``times`` as large as its target is for, with the target over it."""
    if isinstance(target, Tensor):
        shown = [label for label in torch.unique(target).tolist() if label != IGNORE]
        if not shown:
            return picture
        masks = torch.stack([_large(target == label, times) for label in shown])
        colours: list[str | tuple[int, int, int]] = [colour_of(label) for label in shown]
        over: Tensor = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colours)
        return over
    if not len(target.boxes):
        return picture
    colours = [colour_of(label) for label in target.labels.tolist()]
    if target.masks is not None:
        picture = draw_segmentation_masks(
            picture, _large(target.masks.bool(), times), alpha=0.45, colors=colours
        )
    width = max(2, min(picture.shape[-2:]) // 120)
    drawn: Tensor = draw_bounding_boxes(picture, target.boxes * times, colors=colours, width=width)
    return drawn


def _large(masks: Tensor, times: int) -> Tensor:
    return masks.repeat_interleave(times, -2).repeat_interleave(times, -1)
