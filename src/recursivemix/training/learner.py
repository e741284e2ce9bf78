"""What every network that is trained here has: sums of an epoch, a schedule, and all that must last."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recursivemix.data.order import seed_of

from .optimizer import create_optimizer, lr_factor


class Stateful(Protocol):
    """What mixes batches, and has a stream and perhaps a history to keep."""

    def start_epoch(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Learner(LightningModule):
    """Base of what is trained; a task defines its steps, ``network`` and ``mixer``.

    Its ``hparams`` hold plain values that a checkpoint can keep; among them ``optimizer``,
    ``optimizer_options``, ``lr``, ``momentum``, ``weight_decay``, ``decay_norms`` (see `create_optimizer`),
    ``schedule``, ``milestones``, ``gamma`` (see `lr_factor`), ``warmup_epochs`` and ``seed``.
    """

    sums: ClassVar[tuple[str, ...]]
    """What is summed over the images of an epoch, in this order, after their count."""
    evaluated: ClassVar[tuple[str, ...]]
    """What an evaluation logs, in the order of the CSV's columns."""
    score: ClassVar[str]
    """Which of it tells the best checkpoint: the higher the better."""
    same: ClassVar[tuple[str, ...]]
    """Settings in which a run and its checkpoint must agree."""

    network: nn.Module
    mixer: Stateful

    def __init__(self) -> None:
        super().__init__()
        self._sums = torch.zeros(0)
        self._first_bad = torch.zeros(())
        self._resumed: dict[str, Any] | None = None

    @abstractmethod
    def training_step(self, batch: Any, index: int) -> Tensor:
        """The loss of a batch; ends in `add_up`."""

    def begin_epoch(self) -> None:
        """Called as an epoch begins or goes on in its middle."""

    # -- training -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._clear_sums()
        self.begin_epoch()  # an epoch that goes on in its middle has no start
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
        self.begin_epoch()
        self.mixer.start_epoch()

    def epoch_metrics(self) -> dict[str, float]:
        """Means over the images of the epoch so far, of all processes; waits for the device."""
        sums = self._sums.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        count, *totals = sums.tolist()
        return {name: total / max(count, 1) for name, total in zip(self.sums, totals, strict=True)}

    @property
    def first_bad_step(self) -> int:
        """The first step of this epoch whose loss was no finite number, or -1; waits for the device."""
        return int(self._first_bad)

    def add_up(self, count: int, values: list[Tensor], total: Tensor, index: int) -> None:
        """Add to the epoch's sums, on the device, so that no step waits for them.

        Args:
            count: images of the step.
            values: a number for each of `sums`, a mean over these images, detached.
            total: the loss, detached; a step at which it is not finite is noted.
            index: of the step in its epoch.
        """
        self._sums += count * torch.stack([torch.ones_like(total), *values])
        fresh = (self._first_bad < 0) & ~torch.isfinite(total)
        self._first_bad = torch.where(fresh, index, self._first_bad)

    def window_share(self, count: int, index: int) -> float:
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
        self._sums = torch.zeros(1 + len(self.sums), dtype=wide, device=self.device)
        self._first_bad = torch.full((), -1, dtype=torch.long, device=self.device)

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
        scheduler = LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """The learning rate of an optimiser step, as a share of the peak."""
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
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state
