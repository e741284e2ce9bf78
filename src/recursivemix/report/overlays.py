"""Draw over pictures: boxes, masks, label maps and heat maps, with one palette of class colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from recursivemix.data.annotated import IGNORE
from recursivemix.data.printable import printable
from recursivemix.mixing import DenseTarget

from .cells import repeated
from .fonts import fonts_for, letters_of

COLOURS = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff",
    "#7a5230", "#a6e3c5", "#4b2e83", "#999999", "#8c1c13", "#f7c8da", "#1b4d3e", "#c5b800",
)  # fmt: skip
"""Class colours, repeated after the last; the first eight follow Okabe and Ito."""
HEAT_OPACITY = 0.55


def colour_of(label: int) -> str:
    """Return the colour of a class index."""
    return COLOURS[label % len(COLOURS)]


def class_key(
    targets: Iterable[DenseTarget | Tensor], classes: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return the names and colours of the classes that occur in targets, for a legend."""
    found = [torch.unique(t if isinstance(t, Tensor) else t.labels) for t in targets]
    labels = sorted(set(torch.cat(found).tolist()) - {IGNORE}) if found else []
    return tuple((classes[label], colour_of(label)) for label in labels)


def draw_target(
    picture: Tensor, target: DenseTarget | Tensor, times: int = 1, names: Sequence[str] | None = None
) -> Tensor:
    """Draw a target over a picture.

    Args:
        picture: (3, H, W) uint8.
        target: boxes, labels and masks, or an (h, w) label map.
        times: the picture's size divided by the target's size.
        names: one text per box, written into the box; None writes nothing.

    Returns:
        (3, H, W) uint8.
    """
    if isinstance(target, Tensor):
        shown = [label for label in torch.unique(target).tolist() if label != IGNORE]
        if not shown:
            return picture
        masks = torch.stack([repeated(target == label, times) for label in shown])
        colours: list[str | tuple[int, int, int]] = [colour_of(label) for label in shown]
        over: Tensor = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colours)
        return over
    if not len(target.boxes):
        return picture
    colours = [colour_of(label) for label in target.labels.tolist()]
    if target.masks is not None:
        picture = draw_segmentation_masks(
            picture, repeated(disjoint(target.masks.bool()), times), alpha=0.45, colors=colours
        )
    width = max(2, min(picture.shape[-2:]) // 120)
    labels = [printable(name) for name in names or ()]
    text = {} if names is None else {"labels": labels, "fill_labels": True, **_font(picture, labels)}
    drawn: Tensor = draw_bounding_boxes(picture, target.boxes * times, colors=colours, width=width, **text)
    return drawn


def disjoint(masks: Tensor) -> Tensor:
    """Return (N, H, W) masks without what an earlier one covers; torchvision draws overlaps in black."""
    return masks & (masks.cumsum(0, dtype=torch.int16) == 1)


def draw_heat(picture: Tensor, heat: Tensor) -> Tensor:
    """Draw an (h, w) map in [0, 1], in cividis, over a (3, H, W) uint8 picture turned grey."""
    from matplotlib import colormaps

    size = (picture.shape[-2], picture.shape[-1])
    heat = heat.detach().cpu().float()
    if heat.shape != size:
        heat = interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    colours = torch.from_numpy(colormaps["cividis"](heat.clamp(0, 1).numpy())[..., :3]).permute(2, 0, 1)
    # In grey, because the picture's colours would be taken for the map's.
    grey = picture.float().mean(0, keepdim=True) / 255
    mixed = (1 - HEAT_OPACITY) * grey + HEAT_OPACITY * colours.float()
    return (mixed * 255).round().byte()


def _font(picture: Tensor, labels: Sequence[str]) -> dict[str, str | int]:
    """Return the font that has most letters of the labels, and its size in pixels."""
    text = "".join(labels)
    fonts, _ = fonts_for(text)
    best = max(fonts, key=lambda font: len(letters_of(font.file).intersection(map(ord, text))))
    return {"font": best.file, "font_size": max(10, min(picture.shape[-2:]) // 24)}
