"""One training step for every mixing method, as a Lightning module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from recursivemix.data.batches import Batch
from recursivemix.mixing import MixedBatch, Mixer, create_mixer
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel
from recursivemix.training.learner import Learner
from recursivemix.training.settings import Schedule


class MixedClassifier(Learner):
    """A classifier trained on mixed batches; all arguments are plain values that a checkpoint can hold.

    Args:
        model: see `recursivemix.models.create.create_model`.
        classes: names of the K classes, in the order of their indices.
        image_size: pixels a side.
        mixer: a name in `recursivemix.mixing.MIXERS`.
        mixer_options: keyword arguments of that mixer.
        region_head: see `RegionModel`; used by mixers that train regions.
        mix_start, mix_stop: epochs, counted from 0; batches are mixed from the first and before the second.
        optimizer, optimizer_options, lr, momentum, weight_decay, decay_norms: see `create_optimizer`.
        schedule, milestones, gamma: see `lr_factor`; milestones in epochs.
        warmup_epochs: over which the rate rises; None is a twentieth of the run.
        seed: of the mixer's stream, and of what the network draws (dropout).
        data: how the images were prepared, for `recursivemix test`.
    """

    sums = ("loss_label", "loss_consistency", "acc_mixed")
    evaluated = ("acc_clean", "val_loss", "acc1")
    score = "acc1"
    same = ("model", "classes", "image_size", "mixer")
    mixer: Mixer

    def __init__(
        self,
        model: str,
        classes: Sequence[str],
        image_size: int,
        mixer: str,
        mixer_options: dict[str, Any] | None = None,
        region_head: Literal["separate", "shared"] = "separate",
        *,
        mix_start: int = 0,
        mix_stop: int | None = None,
        optimizer: str = "sgd",
        optimizer_options: dict[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        decay_norms: bool = True,
        schedule: Schedule = "cosine",
        milestones: Sequence[float] = (),
        gamma: float = 0.1,
        warmup_epochs: float | None = None,
        seed: int = 0,
        data: dict[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        options = {"seed": seed} | (mixer_options or {})
        self.network: nn.Module = create_model(model, len(classes), image_size)
        self.mixer = create_mixer(mixer, len(classes), self.network, **options)
        if self.mixer.trains_regions:
            size = (image_size, image_size)
            self.network = RegionModel(self.network, region_head=region_head, image_size=size)
        # The layout that convolutions are fastest in, on CPUs and on GPUs in half precision.
        self.network = self.network.to(memory_format=torch.channels_last)
        self.watch: Callable[[MixedBatch], None] | None = None
        """Is shown every mixed batch, for pictures."""
        # Labels of -1 fill up what several processes measure together.
        self.val_acc = MulticlassAccuracy(len(classes), average="micro", ignore_index=-1)
        self.acc_clean = MulticlassAccuracy(len(classes), average="micro", ignore_index=-1)
        self.val_loss = MeanMetric()  # of images, not of batches

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) logits."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    # -- training -------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        stop = self.hparams["mix_stop"]
        epoch = self.current_epoch
        self.mixer.enabled = self.hparams["mix_start"] <= epoch and (stop is None or epoch < stop)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels, indices = batch
        mixed = self.mixer(images, labels, indices=indices)
        if self.watch is not None:
            self.watch(mixed)
        region_logits = None
        if mixed.boxes is None:
            logits = self.network(mixed.images)
        else:
            logits, region_logits = self.network(mixed.images, mixed.boxes)
        losses = self.mixer.losses(logits, mixed, region_logits)
        self.mixer.remember(mixed, logits)
        total = torch.stack(list(losses.values())).sum()
        self._note(losses, logits.detach(), mixed, total.detach(), index)
        return total * self.window_share(len(images), index)

    def epoch_metrics(self) -> dict[str, float]:
        means = super().epoch_metrics()
        if not self.mixer.trains_regions:
            del means["loss_consistency"]
        return means

    def _note(
        self, losses: dict[str, Tensor], logits: Tensor, mixed: MixedBatch, total: Tensor, index: int
    ) -> None:
        # What the network predicts counts as much as the mixed label holds of it.
        predicted = logits.argmax(1, keepdim=True)
        acc_mixed = 100 * mixed.targets.gather(1, predicted).mean()
        zero = torch.zeros_like(total)
        terms = [losses["label"].detach(), losses.get("consistency", zero).detach(), acc_mixed]
        self.add_up(len(logits), terms, total, index)

    # -- evaluation -----------------------------------------------------------------------------

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Loader 0 is the evaluation split, loader 1 a probe of unmixed training images."""
        images, labels, _ = batch
        logits = self(images).float()
        if dataloader_idx == 1:
            self.acc_clean.update(logits, labels)
            return
        self.val_acc.update(logits, labels)
        losses = nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
        self.val_loss.update(losses.double(), (labels >= 0).double())

    def on_validation_epoch_end(self) -> None:
        # The metrics' own sums over the processes: every image counts once.
        self.log("val_loss", self.val_loss.compute().float())
        self.log("acc1", 100 * self.val_acc.compute(), prog_bar=True)
        if self.acc_clean.update_called:
            self.log("acc_clean", 100 * self.acc_clean.compute())
        for metric in (self.val_loss, self.val_acc, self.acc_clean):
            metric.reset()
