"""Draw the first mixed batches of a training run, with box, ``lam`` and labels."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from recursivemix.data.images import denormalise
from recursivemix.mixing import MixedBatch
from recursivemix.report.cells import (
    Cell,
    Cells,
    as_bytes,
    enlarged,
    heaviest,
    scaled,
    short,
    write_cells,
)

from .captions import lam_line, percent, two_lines
from .mixed_cells import in_rows, pasted_box

STEPS, SAMPLES = 4, 6


def gallery(
    batches: list[MixedBatch],
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Cells:
    """Return one column per batch and at most `SAMPLES` rows.

    The batches are consecutive; their images are normalized with ``mean`` and ``std``, RGB in [0, 1].
    """
    columns = []
    for batch in batches:
        cells = []
        for i, picture in enumerate(as_bytes(denormalise(batch.images[:SAMPLES], mean, std))):
            large, times = enlarged(picture)
            box = pasted_box(batch, i)
            label = [(short(name), percent(w)) for name, w in heaviest(batch.targets[i], classes)]
            lines = (lam_line(float(batch.lam[i]), box), *two_lines(label))
            cells.append(Cell(large, lines, box=scaled(box, times)))
        columns.append(cells)
    return in_rows("The first mixed batches", columns)


class MixedBatchGallery(Callback):
    """Draws the first `STEPS` mixed batches of a new run into ``mixed_batches.png`` in its folder."""

    def __init__(self) -> None:
        self._batches: list[MixedBatch] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            pl_module.watch = self._batches.append  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if len(self._batches) >= STEPS:
            self._finish(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._batches:  # the epoch has fewer batches than the picture
            self._finish(trainer, pl_module)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.watch = None  # type: ignore[assignment]
        classes, data = pl_module.hparams["classes"], pl_module.hparams["data"]
        picture = gallery(self._batches, classes, data["mean"], data["std"])
        write_cells(picture, Path(trainer.default_root_dir, "mixed_batches.png"), "light")
        self._batches.clear()
