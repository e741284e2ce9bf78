"""Settings that every task shares, as small dataclasses. Standard library only.

The settings of a task inherit from the classes they need: an option is declared once and keeps one flat
flag (``--lr``). Its line under ``Args:`` is the help text of the flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from recursivemix.data.settings import ColorSettings, SourceSettings

from .checked import Checked
from .optimizer import OptimizerSettings

Device = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "bf16", "16", "32"]
LoggerName = Literal["wandb", "mlflow"]


@dataclass(frozen=True)
class LoadingSettings(Checked, ColorSettings):
    """Loading of training images.

    Args:
        workers: Number of processes that read images (default: 2; 0 for the sample images).
        repeats: Number of copies of each image in a batch, augmented independently (repeated augmentation).
    """

    workers: int | None = None
    repeats: int = 1

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        self.check_least(0, "workers", "color_jitter")
        self.check_least(1, "repeats")


@dataclass(frozen=True)
class MixerSettings(Checked):
    """Mixing.

    Args:
        mixer: Mixing method, such as none, cutmix or recursivemix.
        mixer_options: Options of the mixer, such as --mixer-options.prob 0.5.
        mix_start: First epoch with mixing, counted from 0.
        mix_stop: First epoch without mixing again (default: mix until the end).
    """

    mixer: str = "recursivemix"
    mixer_options: dict[str, Any] = field(default_factory=dict)
    mix_start: int = 0
    mix_stop: int | None = None

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        self.check_least(0, "mix_start")
        if self.mix_stop is not None and self.mix_stop <= self.mix_start:
            raise ValueError(
                f"--mix-stop must be > --mix-start {self.mix_start}, got {self.mix_stop}; to train without "
                f"mixing use --mixer none"
            )


@dataclass(frozen=True)
class RunSettings(OptimizerSettings, MixerSettings, LoadingSettings, SourceSettings):
    """Training run.

    Args:
        epochs: Number of passes over the training images.
        batch_size: Images per step on each device.
        grad_accum_steps: Batches whose gradients are accumulated into one optimizer step.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        ema_decay: Evaluate and save an exponential moving average of the weights, such as 0.9995.
        average_last: Average the weights at the ends of this many last epochs; the average is what the last
            evaluation measures and last.ckpt holds.
        early_stop: Stop when the score has not improved for this many epochs.
        seed: Seed of weights, data order, augmentation and mixing.
        device: cpu, gpu, or auto (a GPU if there is one).
        devices: Number of devices (default: 1, or what the launcher sets).
        sync_batchnorm: Synchronize batch normalization over all devices; needs GPUs.
        precision: bf16, 16, 32, or auto (bf16 where the hardware is fast at it).
        compile: Compile the network with torch.compile; on a GPU with CUDA graphs.
        loggers: wandb, mlflow or both, in addition to CSV and TensorBoard.
        checkpoint_every: Optimizer steps between two checkpoints (default: at least 30 s apart, using at
            most 2 % of the time).
        out: Folder of the run; must be new (default: runs/DATE-TIME-NAME).
    """

    task: ClassVar[str]
    """The task, as ``module:attribute`` of a `recursivemix.training.task.Task`."""

    epochs: int = 30
    batch_size: int = 128
    grad_accum_steps: int = 1
    evaluate_every: int = 1
    ema_decay: float | None = None
    average_last: int | None = None
    early_stop: int | None = None
    seed: int = 0
    device: Device = "auto"
    devices: int | None = None
    sync_batchnorm: bool = False
    precision: Precision = "auto"
    compile: bool = False
    loggers: list[LoggerName] = field(default_factory=list)
    checkpoint_every: int | None = None
    out: Path | None = None

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(1, "epochs", "batch_size", "grad_accum_steps", "evaluate_every")
        self.check_least(1, "devices", "checkpoint_every", "average_last", "early_stop")
        if self.average_last is not None and self.average_last > self.epochs:
            raise ValueError(
                f"--average-last must be at most --epochs {self.epochs}, got {self.average_last}"
            )
        if self.average_last is not None and self.ema_decay is not None:
            raise ValueError("--average-last and --ema-decay both average the weights: give one of them")
        if self.average_last is not None and self.early_stop is not None:
            raise ValueError("--average-last needs a known last epoch: leave out --early-stop")
        if self.mixer != "none" and self.mix_start >= self.epochs:
            raise ValueError(
                f"--mix-start must be < --epochs {self.epochs}, got {self.mix_start}; to train without "
                f"mixing use --mixer none"
            )
        if self.cooldown_epochs and self.cooldown_epochs >= self.epochs:
            raise ValueError(
                f"--cooldown-epochs is part of --epochs {self.epochs} and must be less, got "
                f"{self.cooldown_epochs:g}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be in (0, 1), such as 0.9995, got {self.ema_decay}")
        if self.sync_batchnorm and self.device == "cpu":
            raise ValueError("--sync-batchnorm needs GPUs: torch's SyncBatchNorm does not run on a CPU")
        for name in self.loggers:
            if find_spec(name) is None:
                raise ValueError(f"--loggers [{name}] needs a package: pip install {name}")

    def with_absolute_paths(self) -> Self:
        """Return settings that hold in any working directory: with absolute paths of what exists."""
        paths: dict[str, Any] = {
            name: value.absolute()
            for name, value in vars(self).items()
            if isinstance(value, Path) and name != "out" and value.exists()
        }
        return replace(self, **paths)

    @property
    def reading_processes(self) -> int:
        """Number of processes that read images: ``workers``, or its default."""
        if self.workers is not None:
            return self.workers
        return 0 if self.data is None else 2
