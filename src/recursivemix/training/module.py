"""One training step for every mixing method, as a Lightning module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from recursivemix.data.order import seed_of
from recursivemix.mixing import MixedBatch, create_mixer
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel

from .optimizer import Schedule, create_optimizer, lr_factor

Batch = tuple[Tensor, Tensor]
SUMS = ("loss_label", "loss_consistency", "acc_mixed")
"""What is summed over the images of an epoch, in this order, after their count."""


class MixedClassifier(LightningModule):
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
        self._sums = torch.zeros(0)
        self._first_bad = torch.zeros(())
        self._resumed: dict[str, Any] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K) logits."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    # -- training -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._clear_sums()
        self._switch_mixing()  # an epoch that goes on in its middle has no start
        state = self._resumed
        if state is None:
            torch.manual_seed(seed_of(self.hparams["seed"], "network", self.global_rank))
            return
        self._resumed = None
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self._sums, self._first_bad = state["sums"].to(self.device), state["first_bad"].to(self.device)

    def on_train_epoch_start(self) -> None:
        self._clear_sums()
        self._switch_mixing()
        self.mixer.start_epoch()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        images, labels = batch
        batches: Any = self.trainer.train_dataloader
        mixed = self.mixer(images, labels, indices=batches.indices(index))
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
        self._add_up(losses, logits.detach(), mixed, total.detach(), index)
        return total * self._window_share(len(images), index)

    def epoch_metrics(self) -> dict[str, float]:
        """Means over the images of the epoch so far, of all processes; waits for the device."""
        sums = self._sums.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        count, *totals = sums.tolist()
        means = {name: total / max(count, 1) for name, total in zip(SUMS, totals, strict=True)}
        if not self.mixer.trains_regions:
            del means["loss_consistency"]
        return means

    @property
    def first_bad_step(self) -> int:
        """The first step of this epoch whose loss was no finite number, or -1; waits for the device."""
        return int(self._first_bad)

    def _add_up(
        self, losses: dict[str, Tensor], logits: Tensor, mixed: MixedBatch, total: Tensor, index: int
    ) -> None:
        """Sums for the epoch's metrics, on the device, so that no step waits for them."""
        # What the network predicts counts as much as the mixed label holds of it.
        predicted = logits.argmax(1, keepdim=True)
        acc_mixed = 100 * mixed.targets.gather(1, predicted).mean()
        zero = torch.zeros_like(total)
        terms = [losses["label"].detach(), losses.get("consistency", zero).detach(), acc_mixed]
        self._sums += len(logits) * torch.stack([torch.ones_like(total), *terms])
        fresh = (self._first_bad < 0) & ~torch.isfinite(total)
        self._first_bad = torch.where(fresh, index, self._first_bad)

    def _window_share(self, count: int, index: int) -> float:
        """What makes Lightning's mean over steps the mean over the images of an accumulation window.

        Lightning divides by the full window's number of steps, also where an epoch ends within one.
        """
        window = self.trainer.accumulate_grad_batches
        if window == 1:
            return 1.0
        first = index - index % window
        last = min(first + window, int(self.trainer.num_training_batches))
        batches: Any = self.trainer.train_dataloader
        images = sum(batches.order.batch_length(step) for step in range(first, last))
        return float(window * count / images)

    def _clear_sums(self) -> None:
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(1 + len(SUMS), dtype=wide, device=self.device)
        self._first_bad = torch.full((), -1, dtype=torch.long, device=self.device)

    def _switch_mixing(self) -> None:
        stop = self.hparams["mix_stop"]
        epoch = self.current_epoch
        self.mixer.enabled = self.hparams["mix_start"] <= epoch and (stop is None or epoch < stop)

    # -- evaluation -----------------------------------------------------------------------------

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Loader 0 is the evaluation split, loader 1 a probe of unmixed training images."""
        images, labels = batch
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

    # -- optimiser ------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.hparams
        options = dict(settings["optimizer_options"] or {})
        if self.trainer.gradient_clip_val:
            options.setdefault("fused", False)  # Lightning can't clip between its scaling and a fused step
        optimizer = create_optimizer(
            self.network,
            settings["optimizer"],
            lr=settings["lr"],
            weight_decay=settings["weight_decay"],
            momentum=settings["momentum"],
            decay_norms=settings["decay_norms"],
            options=options,
        )
        scheduler = LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        settings = self.hparams
        total = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        share = 0.05 if settings["warmup_epochs"] is None else settings["warmup_epochs"] / epochs
        milestones = [milestone / epochs for milestone in settings["milestones"]]
        warmup = round(share * total)
        return lr_factor(step, total, warmup, settings["schedule"], milestones, settings["gamma"])

    # -- what must last -------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds every process's own state: mixer, generators, sums of the epoch."""
        on_gpu = self.device.type == "cuda"
        own = {
            "mixer": _on_cpu(self.mixer.state_dict()),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "sums": self._sums.cpu(),
            "first_bad": self._first_bad.cpu(),
        }
        states = [own]
        if self._trainer is not None and self.trainer.world_size > 1:
            states = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(states, own)
        checkpoint["ranks"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["ranks"]
        in_run = self._trainer is not None
        if in_run and len(states) == self.trainer.world_size:
            self._resumed = states[self.global_rank]
            self.mixer.load_state_dict(self._resumed["mixer"])
        else:
            self.mixer.load_state_dict(states[0]["mixer"])


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state
