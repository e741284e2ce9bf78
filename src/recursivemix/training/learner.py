"""Base of the Lightning modules of all tasks: epoch means, optimizer, and the state of a checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recursivemix.data.order import TrainingOrder, seed_of

from .optimizer import apply_settings, check_state, create_optimizer, scheduled_factor
from .settings import RunSettings


class Learner(LightningModule):
    """Base of what a run trains. A subclass creates ``network`` and ``mixer`` and defines the steps.

    ``hparams`` are the settings as plain values, with what the data determined; a checkpoint holds them.

    Args:
        settings: of the run, with all defaults resolved.
        facts: further plain values for ``hparams``: at least ``classes`` and ``data``, a dictionary with
            the number of training ``images``.
    """

    means: tuple[str, ...]
    """Names of what is averaged over the training images of an epoch."""
    evaluated: tuple[str, ...]
    """Names of what an evaluation logs, in the order of the CSV's columns."""
    score: str
    """Which of it selects the best checkpoint; higher is better."""
    identity: tuple[str, ...]
    """Hyperparameters in which a run and the checkpoint it resumes from must agree."""
    network: nn.Module
    mixer: Any
    """Has ``start_epoch``, ``state_dict`` and ``load_state_dict``; None trains without mixing."""
    order: Callable[..., TrainingOrder]
    """Which training images make up which batch of this process, or of a ``rank``; of the run's loaders."""
    per_class: dict[str, float]
    """Score of each class in the last evaluation, if the task has one."""
    trains_all_from_start = True
    """Whether no parameter gets its first gradient in a later epoch."""
    notes: tuple[str, ...] = ()
    """Lines to show before the training."""

    def __init__(self, settings: RunSettings, facts: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        values = settings.as_plain() | facts
        del values["out"]  # a checkpoint may move to another folder
        self.save_hyperparameters(values)
        self.per_class = {}
        self.mixing = True
        """Whether the current epoch mixes."""
        self._sums = torch.zeros(0)
        self._first_bad = torch.zeros(())
        self._resumed: dict[str, Any] | None = None
        self._next_step: int | None = None
        """Step of its epoch at which a resumed run goes on."""

    @abstractmethod
    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return `finish_step` of the losses of a batch."""

    @property
    def inference_network(self) -> nn.Module:
        """The part of the network that a prediction needs."""
        return self.network

    def record(self) -> dict[str, Any]:
        """Return entries that the task adds to the record of a run."""
        return {}

    def advice(self, metrics: dict[str, float]) -> str | None:
        """Return what the metrics of the last epoch suggest about the settings, in a few lines."""
        return None

    # -- training -------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._clear_sums()
        self._start_epoch()  # Lightning calls no epoch hook if it resumes within an epoch
        if self._next_step is not None:
            (config,) = self.trainer.lr_scheduler_configs
            assert isinstance(config.scheduler, LambdaLR)
            check_state(config.scheduler.optimizer)
            step = self.optimizer_step_of(self.current_epoch, self._next_step)
            apply_settings(config.scheduler, self.settings, self._configured, step)
        state, self._resumed, self._next_step = self._resumed, None, None
        if state is None:
            torch.manual_seed(seed_of(self.settings.seed, "network", self.global_rank))
            return
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self._sums, self._first_bad = state["sums"].to(self.device), state["first_bad"].to(self.device)

    def on_train_epoch_start(self) -> None:
        self._clear_sums()
        self._start_epoch()
        if self.mixer is not None:
            self.mixer.start_epoch()

    def _start_epoch(self) -> None:
        start, stop = self.settings.mix_start, self.settings.mix_stop
        self.mixing = start <= self.current_epoch and (stop is None or self.current_epoch < stop)

    def epoch_means(self) -> dict[str, float]:
        """Return means over all training images of the epoch so far; synchronizes processes and device."""
        sums = self._sums.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        count, *totals = sums.tolist()
        return {name: total / max(count, 1) for name, total in zip(self.means, totals, strict=True)}

    @property
    def first_bad_step(self) -> int:
        """First step of this epoch whose loss was not finite, or -1; synchronizes the device."""
        return int(self._first_bad)

    def finish_step(
        self, losses: list[Tensor], count: int, index: int, values: list[Tensor] | None = None
    ) -> Tensor:
        """Add a step to the epoch's means, without synchronizing the device; return the loss to optimize.

        Args:
            losses: terms of the loss, means over the images of the step.
            count: number of images.
            index: of the step in its epoch.
            values: one detached number for each of ``means``, means over the images too; None if ``means``
                holds the sum of the losses only.
        """
        total = torch.stack(losses).sum()
        detached = total.detach()
        values = [detached] if values is None else values
        self._sums += count * torch.stack([torch.ones_like(detached), *values])
        fresh = (self._first_bad < 0) & ~torch.isfinite(detached)
        self._first_bad = torch.where(fresh, index, self._first_bad)
        return total * self._window_share(count, index)

    def _window_share(self, count: int, index: int) -> float:
        """Return the factor that turns Lightning's mean over accumulated steps into a mean over images.

        Lightning divides by the number of steps of a full window, even at the end of an epoch.
        """
        window = self.trainer.accumulate_grad_batches
        if window == 1:
            return 1.0
        first, order = index - index % window, self.order()
        last = min(first + window, int(self.trainer.num_training_batches))
        images = sum(order.batch_length(step) for step in range(first, last))
        return float(window * count / images)

    def _clear_sums(self) -> None:
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(1 + len(self.means), dtype=wide, device=self.device)
        self._first_bad = torch.full((), -1, dtype=torch.long, device=self.device)

    # -- optimizer ------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # Lightning cannot clip gradients for a fused optimizer in mixed precision, and torch's fused SGD
        # fails if some parameters had no gradient so far.
        fused = not self.trainer.gradient_clip_val and self.trains_all_from_start
        optimizer = create_optimizer(self.network, self.settings, fused=fused, rates=self.rates())
        scheduler = LambdaLR(optimizer, self.lr_factor)
        self._configured = [dict(group) for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rates(self) -> dict[nn.Parameter, float] | None:
        """Return the peak learning rate of each parameter of the network; None if all have the same."""
        return None

    def lr_factor(self, step: int) -> float:
        """Return the learning rate of an optimizer step, relative to the peak."""
        total = int(self.trainer.estimated_stepping_batches)
        return scheduled_factor(self.settings, step, total, self.trainer.max_epochs or 1)

    def optimizer_step_of(self, epoch: int, step: int) -> int:
        """Return the optimizer step, counted from the start of the run, of a step of an epoch."""
        window = self.trainer.accumulate_grad_batches
        return epoch * -(-int(self.trainer.num_training_batches) // window) + step // window

    # -- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of every process: mixer, generators, and sums of the epoch."""
        on_gpu = self.device.type == "cuda"
        state = {
            "mixer": {} if self.mixer is None else _on_cpu(self.mixer.state_dict()),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "sums": self._sums.cpu(),
            "first_bad": self._first_bad.cpu(),
        }
        states = [state]
        if self._trainer is not None and self.trainer.world_size > 1:
            states = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(states, state)
        checkpoint["ranks"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["ranks"]
        state = states[0]
        self._next_step = checkpoint["RunLoaders"]["next_step"]
        if len(states) == self.trainer.world_size:
            self._resumed = state = states[self.global_rank]
        if self.mixer is not None:
            self.mixer.load_state_dict(state["mixer"])


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state
