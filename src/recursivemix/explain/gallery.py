"""A picture of mixed batches: what the network gets, with box, ``lam`` and labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recursivemix.data.images import denormalise
from recursivemix.mixing import MixedBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOX_COLOUR = "#e69f00"  # orange of the Okabe-Ito palette, told apart with every kind of colour vision


def draw_gallery(
    batches: list[MixedBatch],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    samples: int = 8,
) -> Figure:
    """One row a step, one column a sample of the batch.

    Args:
        batches: consecutive steps; images (B, 3, H, W), normalised with ``mean`` and ``std``.
        classes: names of the K classes.
        samples: columns at most.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = min(samples, max(len(batch.images) for batch in batches))
    figure = Figure(figsize=(1.5 * columns, 2.15 * len(batches)), layout="constrained")
    axes = figure.subplots(len(batches), columns, squeeze=False)
    for step, (row, batch) in enumerate(zip(axes, batches, strict=True), start=1):
        images = denormalise(batch.images[:columns], mean, std)
        for i, axis in enumerate(row):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if i >= len(images):
                continue
            axis.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="nearest")
            box = pasted_box(batch, i)
            if box is not None:
                x1, y1, x2, y2 = box
                outline = Rectangle(
                    (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, lw=1.5, ec=BOX_COLOUR
                )
                axis.add_patch(outline)
            axis.set_title(f"lam {batch.lam[i]:.2f}", fontsize=8, pad=2)
            axis.set_xlabel(top_labels(batch.targets[i], classes), fontsize=7, labelpad=2, parse_math=False)
        row[0].set_ylabel(f"step {step}", fontsize=9)
    return figure


def pasted_box(batch: MixedBatch, index: int) -> tuple[int, int, int, int] | None:
    """The box of one sample, or None where nothing was pasted."""
    boxes = batch.draw.boxes
    if boxes is None or float(batch.lam[index]) == 1:
        return None
    x1, y1, x2, y2 = boxes[index if len(boxes) > 1 else 0].tolist()
    return x1, y1, x2, y2


def top_labels(target: Tensor, classes: tuple[str, ...], count: int = 3) -> str:
    """The heaviest classes of a (K,) target, a line each, down to a weight of one percent."""
    weights, indices = target.topk(min(count, len(target)))
    return "\n".join(
        f"{classes[k]}: {w:.2f}"
        for w, k in zip(weights.tolist(), indices.tolist(), strict=True)
        if w >= 0.01
    )


class MixedBatchGallery(Callback):
    """Draws the first mixed batches of a run, once `prepare` has said where and of what.

    Args:
        steps: how many batches.
    """

    def __init__(self, steps: int = 4) -> None:
        self.steps = steps
        self._batches: list[MixedBatch] = []
        self._path: Path | None = None

    def prepare(
        self, path: Path, classes: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """Set the picture's path, and what `draw_gallery` needs."""
        self._path, self._classes, self._mean, self._std = path, classes, mean, std

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._path is not None and trainer.is_global_zero:
            pl_module.watch = self._batches.append  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if len(self._batches) >= self.steps:
            self._finish(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batches:  # an epoch shorter than the picture
            self._finish(pl_module)

    def _finish(self, pl_module: LightningModule) -> None:
        pl_module.watch = None  # type: ignore[assignment]
        with warnings.catch_warnings():
            # A class name in a script that the font lacks is drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure = draw_gallery(self._batches, self._classes, self._mean, self._std)
            figure.savefig(str(self._path), dpi=110)
        self._batches.clear()
