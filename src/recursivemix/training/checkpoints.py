"""When a run writes checkpoints, and what Lightning's own lack.

A checkpoint is written after an optimizer step, and only if loss and weights are finite. With data that are
a pure function of the step, it is all that a run needs to be resumed exactly.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from recursivemix.data.atomic_write import atomic_write
from recursivemix.models.checkpoint_file import CheckpointError, read_checkpoint, write_checkpoint

from .learner import Learner

LEAST_SECONDS = 30.0
"""Least time between two checkpoints, unless ``every`` is given."""
SHARE_OF_TIME = 0.02
"""Largest share of the time spent on writing checkpoints, unless ``every`` is given."""
STEPS_BETWEEN_CHECKS = 20
"""On a GPU, or with several processes: steps between two checks of the loss, which synchronize."""


class NonFiniteLossError(RuntimeError):
    """The loss or the weights became NaN or infinite; the message names step and images."""


class StoppedError(Exception):
    """The run was asked to stop, and did so after writing a checkpoint."""


class CheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically and with a checksum; read tensors and plain values only.

    Lightning's own writer keeps a second copy in memory and moves the file from the system's temporary
    folder, which is not atomic if that is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with atomic_write(path) as part:
                write_checkpoint(checkpoint, part)
        except (OSError, RuntimeError) as error:  # torch hides the system's error in the context
            before = "the previous one is intact" if path.exists() else "there is no previous one"
            raise CheckpointError(
                f"cannot write the checkpoint {path} ({error.__context__ or error}); {before}. Is the disk "
                f"full, or the folder read-only?"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` regularly, and ``best.ckpt`` when the score improves.

    ``last.ckpt`` is written at the end of the run, on Ctrl-C and SIGTERM, and in between every ``every``
    steps, or else at least 30 seconds apart and using at most 2 % of the time.

    Args:
        folder: of the files.
        every: optimizer steps between two checkpoints; None goes by the clock.
        name_image: returns the name of a training image, for messages.
        patience: stop the run when the score has not improved for this many epochs; None never does.
    """

    def __init__(
        self,
        folder: Path,
        every: int | None,
        name_image: Callable[[int], str],
        patience: int | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.name_image = name_image
        self.patience = patience
        self.best: float | None = None
        self.best_epoch = -1
        self.stopped_early = False
        self._step = 0
        self._index = 0
        self._saved_at = time.monotonic()
        self._cost = 0.0
        self._evaluated = False
        self._has_last = False
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def last(self) -> Path:
        """The checkpoint that a run resumes from."""
        return self.folder / "last.ckpt"

    # -- when -----------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self.stopped_early  # only the record is left to write

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._index = batch_idx
        if trainer.global_step == self._step:
            return  # within an accumulation window: a checkpoint holds no gradients
        self._step = trainer.global_step
        stop, save, bad = self._decide(trainer, pl_module)
        if bad:
            self._refuse(trainer, pl_module)
        if trainer.is_last_batch:
            return  # on_train_epoch_end follows
        if save or stop:
            self._save(trainer, self.last)
        if stop:
            raise StoppedError(f"stopped at step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop, save, bad = self._decide(trainer, pl_module, always=True)
        if bad:
            self._refuse(trainer, pl_module)
        assert isinstance(pl_module, Learner)
        score = trainer.callback_metrics.get(pl_module.score) if self._evaluated else None
        self._evaluated = False
        # A score is NaN where the images hold nothing to find.
        if score is not None and (self.best is None or math.isnan(self.best) or float(score) > self.best):
            self.best, self.best_epoch = float(score), trainer.current_epoch
            self._save(trainer, self.folder / "best.ckpt")
        elif score is not None and self.patience is not None:
            self.stopped_early = trainer.current_epoch - self.best_epoch >= self.patience
            trainer.should_stop |= self.stopped_early
        final = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        final |= trainer.global_step == trainer.max_steps
        if save or stop or final or not self._has_last:
            self._save(trainer, self.last)
        if stop and not final:
            raise StoppedError(f"stopped after epoch {trainer.current_epoch + 1}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        """Restore the signal handlers before Lightning does; otherwise its own would stay."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop after the next step; at a second Ctrl-C, at once."""
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _decide(self, trainer: Trainer, module: LightningModule, always: bool = False) -> tuple[bool, ...]:
        """Return whether to stop, to save, and whether a loss was not finite: the same on every process."""
        assert isinstance(module, Learner)
        on_cpu = module.device.type == "cpu"
        if self.every is not None:
            due = self._step % self.every == 0
        else:
            due = time.monotonic() - self._saved_at >= max(LEAST_SECONDS, self._cost / SHARE_OF_TIME)
        stop = self._signal is not None
        check = always or on_cpu or self._step % STEPS_BETWEEN_CHECKS == 0
        if trainer.world_size == 1:
            bad = (check or due or stop) and module.first_bad_step >= 0
            return stop, due, bad
        if not check and not (self.every is not None and due):
            return False, False, False
        wishes = torch.tensor([stop, due, module.first_bad_step >= 0], device=module.device).int()
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        stop, due, bad = (bool(wish) for wish in wishes.tolist())
        return stop, due, bad

    def _save(self, trainer: Trainer, path: Path) -> None:
        module = trainer.lightning_module
        # A step with a finite loss can still ruin the weights; the next loss would show it too late.
        sound = all(bool(weights.isfinite().all()) for weights in module.state_dict().values())
        # The statistics of batch normalization differ between processes.
        if not trainer.strategy.reduce_boolean_decision(sound, all=True):
            self._refuse(trainer, module)
        start = time.monotonic()
        problem = ""
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except CheckpointError as error:
            problem = str(error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other processes wait
        problem = trainer.strategy.broadcast(problem)
        if problem:
            raise CheckpointError(problem)
        self._has_last |= path == self.last
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _refuse(self, trainer: Trainer, module: LightningModule) -> None:
        """Raise NonFiniteLossError."""
        assert isinstance(module, Learner)
        what, (step, rank) = "loss was", first_bad_of(trainer, module)
        if step < 0:
            what, step = "weights were", self._index
        good = [file for file in (self.last, self.folder / "best.ckpt") if file.exists()]
        kept = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint"
        epoch = trainer.current_epoch
        names = [self.name_image(i) for i in module.order(rank).batch(epoch, step).tolist()]
        factor = module.lr_factor(module.optimizer_step_of(epoch, step))
        lr = float(trainer.optimizers[0].defaults["lr"]) * factor
        raise NonFiniteLossError(
            f"the {what} not finite at step {step + 1} of epoch {epoch + 1}, at learning rate {lr:.3g}; "
            f"{kept}. Try a lower --lr, or --warmup-epochs. The images of that batch: {', '.join(names)}"
        )

    def state_dict(self) -> dict[str, Any]:
        names = ("best", "best_epoch", "stopped_early", "patience")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.best_epoch = state_dict.get("best_epoch", -1)  # earlier versions did not write it
        same_patience = state_dict.get("patience") == self.patience
        self.stopped_early = same_patience and state_dict.get("stopped_early", False)
        self._has_last = True


def first_bad_of(trainer: Trainer, module: Learner) -> tuple[int, int]:
    """Return the first step with a loss that is not finite, of any process, and its rank; step -1: none."""
    step = torch.tensor(module.first_bad_step, device=module.device)
    steps = [step]
    if trainer.world_size > 1:
        steps = [torch.zeros_like(step) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(steps, step)
    bad = [(int(step), rank) for rank, step in enumerate(steps) if step >= 0]
    return min(bad, default=(-1, trainer.global_rank))
