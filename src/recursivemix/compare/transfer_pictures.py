"""Predictions beside what was annotated: boxes, masks and label maps drawn over images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from recursivemix.data.annotated import IGNORE, DetectionData, Objects, SegmentationData
from recursivemix.data.order import generator_of
from recursivemix.explain.annotations import colour_of
from recursivemix.models.feature_map import evaluating
from recursivemix.tasks.detection.learner import DetectionLearner
from recursivemix.tasks.segmentation.learner import SegmentationLearner
from recursivemix.training.whole import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 6
MOST_NAMED = 12
"""Objects in an image that have their class written at the box; of more the key tells."""
LEAST_SCORE = 0.25
"""Of a detection that is drawn."""


class Drawn(NamedTuple):
    """What is drawn over one image; empty where it has a label map instead."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: Tensor | None = None
    label_map: Tensor | None = None


def write_predictions(
    module: DetectionLearner | SegmentationLearner,
    data: DetectionData | SegmentationData,
    path: Path,
    count: int = SHOWN,
) -> None:
    """Random images of the evaluation split, always the same ones: annotated above, predicted below."""
    order = torch.randperm(len(data.evaluation), generator=generator_of("shown"))[:count].tolist()
    images, truths, found = [], [], []
    for index in order:
        image, target = data.evaluation[index]
        images.append(image)
        truths.append(as_drawn(target))
        found.append(predict_one(module, image))
    figure = draw(images, [truths, found], ["annotated", "predicted"], data.classes)
    save(figure, path)


def predict_one(module: DetectionLearner | SegmentationLearner, image: Tensor) -> Drawn:
    """What a network sees in one (3, H, W) uint8 image."""
    with evaluating(module):
        if isinstance(module, SegmentationLearner):
            found = module.predict_map(image.to(module.device)).cpu()
            return Drawn(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), label_map=found)
        (one,) = module.network([image.to(module.device).float() / 255])
    masks = one.get("masks")
    return Drawn(
        one["boxes"].cpu(), one["labels"].cpu(), one["scores"].cpu(), None if masks is None else masks.cpu()
    )


def as_drawn(target: Objects | Tensor) -> Drawn:
    """What is annotated in one image."""
    if isinstance(target, Tensor):
        return Drawn(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), label_map=target)
    return Drawn(target.boxes, target.labels, masks=target.masks)


def draw(
    images: Sequence[Tensor], rows: Sequence[Sequence[Drawn]], names: Sequence[str], classes: Sequence[str]
) -> Figure:
    """A column an image, a row a kind of what is drawn over it, and a key of the classes.

    Args:
        images: (3, H, W) uint8 each.
        rows: of each kind what is drawn over every image.
        names: of the kinds.
        classes: names of the K classes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    aspect = max(image.shape[-2] / image.shape[-1] for image in images)
    width = 2.6 if len(images) > 1 else 5.0
    figure = Figure(
        figsize=(width * len(images) + 0.3, (width * aspect + 0.2) * len(rows) + 0.5), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    seen: set[int] = set()
    for row, (name, kind) in enumerate(zip(names, rows, strict=True)):
        for column, (image, drawn) in enumerate(zip(images, kind, strict=True)):
            axis = axes[row][column]
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.imshow(image.permute(1, 2, 0).numpy())
            seen |= _draw_over(axis, drawn, classes, tuple(image.shape[-2:]))
        axes[row][0].set_ylabel(name, fontsize=10)
    handles = [Patch(fc=colour_of(k), ec="#444444", label=classes[k]) for k in sorted(seen)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=8)
    return figure


def _draw_over(axis: Axes, drawn: Drawn, classes: Sequence[str], size: tuple[int, ...]) -> set[int]:
    """Draw over one image; the classes that are there."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    seen: set[int] = set()
    if drawn.label_map is not None:
        overlay = torch.zeros(*size, 4)
        for label in torch.unique(drawn.label_map).tolist():
            if label == IGNORE:
                continue
            overlay[drawn.label_map == label] = torch.tensor([*to_rgb(colour_of(label)), 0.55])
            seen.add(label)
        axis.imshow(overlay.numpy(), interpolation="nearest")
    kept = range(len(drawn.boxes))
    if drawn.scores is not None:
        kept = range(int((drawn.scores >= LEAST_SCORE).sum()))  # the best come first
    for i in kept:
        score = None if drawn.scores is None else float(drawn.scores[i])
        label = int(drawn.labels[i])
        seen.add(label)
        x1, y1, x2, y2 = (float(v) - 0.5 for v in drawn.boxes[i])
        if drawn.masks is not None:
            overlay = torch.zeros(*size, 4)
            overlay[drawn.masks[i].bool()] = torch.tensor([*to_rgb(colour_of(label)), 0.45])
            axis.imshow(overlay.numpy(), interpolation="nearest")
        edge = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.4, ec=colour_of(label))
        edge.set_path_effects([withStroke(linewidth=2.4, foreground="#000000")])
        axis.add_patch(edge)
        if len(kept) <= MOST_NAMED:
            text = classes[label] if score is None else f"{classes[label]} {score:.2f}"
            words = axis.text(
                x1, max(y1, 0), text, fontsize=7, color="white", va="top", parse_math=False, clip_on=True
            )
            words.set_path_effects([withStroke(linewidth=2, foreground="#000000")])
    axis.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
    return seen


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a PNG whole or not at all."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=dpi)
    with written_whole(path) as part:
        part.write_bytes(held.getvalue())
