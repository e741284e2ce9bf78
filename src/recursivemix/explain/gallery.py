"""A picture of mixed batches: what the network gets, with box, ``lam`` and labels."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from recursivemix.data.images import denormalise
from recursivemix.mixing import MixedBatch
from recursivemix.report.cells import (
    NOTHING,
    Cell,
    Cells,
    as_bytes,
    enlarged,
    heaviest,
    scaled,
    short,
    write_cells,
)

from .preview import percent, place_line, two_lines


def gallery(
    batches: list[MixedBatch],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    samples: int = 6,
) -> Cells:
    """One column a step, one row a sample of the batch.

    Args:
        batches: consecutive steps; images (B, 3, H, W), normalised with ``mean`` and ``std``.
        classes: names of the K classes.
        samples: rows at most.
    """
    rows = min(samples, max(len(batch.images) for batch in batches))
    columns = []
    for batch in batches:
        shown = min(rows, len(batch.images))
        pictures = as_bytes(denormalise(batch.images[:shown], mean, std))
        cells = []
        for i, picture in enumerate(pictures):
            large, times = enlarged(picture)
            box = pasted_box(batch, i)
            label = two_lines(
                [(short(name), percent(w)) for name, w in heaviest(batch.targets[i], classes)]
            )
            lines = (place_line(float(batch.lam[i]), box), *label)
            cells.append(Cell(large, lines, box=scaled(box, times)))
        columns.append([*cells, *[NOTHING] * (rows - shown)])
    heads = tuple(f"iteration {step}" for step in range(1, len(batches) + 1))
    return Cells("The first mixed batches", heads, tuple(zip(*columns, strict=True)), ("",) * rows)


def pasted_box(batch: MixedBatch, index: int) -> tuple[int, int, int, int] | None:
    """The box of one sample, or None where nothing was pasted."""
    boxes = batch.draw.boxes
    if boxes is None or float(batch.lam[index]) == 1:
        return None
    x1, y1, x2, y2 = boxes[index if len(boxes) > 1 else 0].tolist()
    return x1, y1, x2, y2


class MixedBatchGallery(Callback):
    """Draw the first mixed batches of a new run into ``mixed_batches.png`` in its folder.

    Args:
        steps: how many batches.
    """

    def __init__(self, steps: int = 4) -> None:
        self.steps = steps
        self._batches: list[MixedBatch] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            pl_module.watch = self._batches.append  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if len(self._batches) >= self.steps:
            self._finish(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batches:  # an epoch shorter than the picture
            self._finish(trainer, pl_module)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.watch = None  # type: ignore[assignment]
        hparams = pl_module.hparams
        picture = gallery(
            self._batches, hparams["classes"], hparams["data"]["mean"], hparams["data"]["std"]
        )
        write_cells(picture, Path(trainer.default_root_dir, "mixed_batches.png"), "light")
        self._batches.clear()
