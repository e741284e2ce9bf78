"""Nothing lost: checkpoints written whole or not at all, by the clock, on a signal, none of a bad step.

A checkpoint is only written after an optimiser step, and says at which step of which epoch its run goes
on; with data that is a pure function of the step, that is all a run needs.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from recursivemix.models.checkpoint_file import CheckpointError, read_checkpoint, write_checkpoint

from .learner import Learner
from .whole import written_whole

LEAST_SECONDS = 30.0
"""Between two checkpoints that nobody asked for."""
SHARE_OF_TIME = 0.02
"""Of a run's time, how much may go into writing checkpoints."""
STEPS_BETWEEN_LOOKS = 20
"""At a loss on a device that must not be waited for, and at what other processes want."""


class NonFiniteLossError(RuntimeError):
    """A loss that is no finite number; the message says where in the run, and of which images."""


class StoppedError(Exception):
    """A run that was asked to stop, and has written where it was."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Write checkpoints atomically and with a checksum; read tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with written_whole(path) as part:
                write_checkpoint(checkpoint, part)
        except (OSError, RuntimeError) as error:  # torch's writer hides what the system said
            before = "the one before it is whole" if path.exists() else "there is none before it"
            raise CheckpointError(
                f"cannot write the checkpoint {path} ({error.__context__ or error}); {before}. Is the disk "
                f"full, or the folder read-only?"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` as often as it costs little, and ``best.ckpt`` when the score was never higher.

    ``last.ckpt`` is written at the end of the run, on Ctrl-C and SIGTERM, and in between every ``every``
    steps, or by the clock: at least 30 seconds apart and for at most 2 % of the time.

    Args:
        folder: of the files.
        every: optimiser steps between two checkpoints; None goes by the clock.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        self.folder = folder
        self.every = every
        self.best: float | None = None
        self._step = 0
        self._index = 0
        self._saved_at = time.monotonic()
        self._cost = 0.0
        self._seen = False
        self._kept = False
        self._epoch_ends = False
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def last(self) -> Path:
        """Where the run goes on."""
        return self.folder / "last.ckpt"

    # -- when -----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._index = batch_idx
        if trainer.global_step == self._step:
            return  # within an accumulation window, whose gradients no checkpoint holds
        self._step = trainer.global_step
        stop, save, bad = self._look(trainer, pl_module)
        if bad:
            self._refuse(trainer, pl_module)
        if trainer.is_last_batch:
            return  # the epoch's end follows
        if save or stop:
            self._save(trainer, self.last)
        if stop:
            raise StoppedError(f"stopped at step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop, save, bad = self._look(trainer, pl_module, always=True)
        if bad:
            self._refuse(trainer, pl_module)
        self._epoch_ends = True
        assert isinstance(pl_module, Learner)
        score = trainer.callback_metrics.get(pl_module.score) if self._seen else None
        self._seen = False
        if score is not None and (self.best is None or float(score) > self.best):
            self.best = float(score)
            self._save(trainer, self.folder / "best.ckpt")
        final = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        final |= trainer.global_step == trainer.max_steps
        if save or stop or final or not self._kept:
            self._save(trainer, self.last)
        self._epoch_ends = False
        if stop and not final:
            raise StoppedError(f"stopped after epoch {trainer.current_epoch + 1}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        """Before Lightning restores its own, which would come back else."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks for a stop; a second Ctrl-C doesn't wait for it."""
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _look(self, trainer: Trainer, module: LightningModule, always: bool = False) -> tuple[bool, ...]:
        """Whether to stop, to save, and whether a loss was not finite: the same answer on every process."""
        assert isinstance(module, Learner)
        on_cpu = module.device.type == "cpu"
        if self.every is not None:
            due = self._step % self.every == 0
        else:
            due = time.monotonic() - self._saved_at >= max(LEAST_SECONDS, self._cost / SHARE_OF_TIME)
        stop = self._signal is not None
        look = always or on_cpu or self._step % STEPS_BETWEEN_LOOKS == 0
        if trainer.world_size == 1:
            bad = (look or due or stop) and module.first_bad_step >= 0
            return stop, due, bad
        if not look and not (self.every is not None and due):
            return False, False, False
        wishes = torch.tensor([stop, due, module.first_bad_step >= 0], device=module.device).int()
        torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
        stop, due, bad = (bool(wish) for wish in wishes.tolist())
        return stop, due, bad

    def _save(self, trainer: Trainer, path: Path) -> None:
        module = trainer.lightning_module
        # A step of a finite loss can still ruin the weights; the next loss would only say so after this.
        sound = all(bool(weights.isfinite().all()) for weights in module.state_dict().values())
        # Batch norm's statistics are each process's own.
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
        self._kept |= path == self.last
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _refuse(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Learner)
        what, (step, rank) = "loss was", first_bad_of(trainer, module)
        if step < 0:
            what, step = "weights were", self._index
        good = [file for file in (self.last, self.folder / "best.ckpt") if file.exists()]
        kept = f"the last good checkpoint is {good[0]}" if good else "no checkpoint was kept"
        epoch = trainer.current_epoch
        batches: Any = trainer.train_dataloader
        names = batches.names(epoch, step, rank)
        window = trainer.accumulate_grad_batches
        taken = epoch * -(-int(trainer.num_training_batches) // window) + step // window
        lr = float(trainer.optimizers[0].defaults["lr"]) * module.lr_factor(taken)
        raise NonFiniteLossError(
            f"the {what} not finite at step {step + 1} of epoch {epoch + 1}, at learning rate {lr:.3g}; "
            f"{kept}. Try a lower --lr, or --warmup-epochs. The images of that batch: {', '.join(names)}"
        )

    # -- what -----------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Says at which step of its epoch the run goes on; Lightning's counters say in which epoch."""
        done = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]
        checkpoint["next_step"] = 0 if self._epoch_ends and trainer.is_last_batch else done

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        datamodule: Any = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.first = checkpoint["next_step"]
        self._kept = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def first_bad_of(trainer: Trainer, module: Learner) -> tuple[int, int]:
    """The first step of any process whose loss was not finite, and that process; -1 if there is none."""
    own = torch.tensor(module.first_bad_step, device=module.device)
    steps = [own]
    if trainer.world_size > 1:
        steps = [torch.zeros_like(own) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(steps, own)
    bad = [(int(step), rank) for rank, step in enumerate(steps) if step >= 0]
    return min(bad, default=(-1, trainer.global_rank))
