"""Settings that every task shares, as small dataclasses. Standard library only.

The settings of a task inherit from the classes they need: an option is declared once and keeps one flat
flag (``--lr``). Its line under ``Args:`` is the help text of the flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

Device = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "bf16", "16", "32"]
Schedule = Literal["cosine", "step", "poly", "constant"]
LoggerName = Literal["wandb", "mlflow"]


def flag(name: str) -> str:
    """Return the command-line flag of a field: ``--weight-decay`` for ``weight_decay``."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Settings:
    """Run the checks of all classes that the settings of a task inherit from."""

    def __post_init__(self) -> None:
        for kind in reversed(type(self).__mro__):
            if "check" in vars(kind):
                kind.check(self)  # type: ignore[attr-defined]  # every class checks its own fields

    def check_least(self, least: float, *names: str) -> None:
        """Raise ValueError if a field is below ``least``; None means its default and passes."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{flag(name)} must be at least {least}, got {value}")


@dataclass(frozen=True)
class DataSettings(Settings):
    """Images and how they are read.

    Args:
        data: Folder of images (default: small sample images that come with the installation).
        download: Allow downloads of data sets and pretrained weights; nothing else uses the network.
        workers: Number of processes that read images (default: 2; 0 for the sample images).
        flip: Mirror half of the training images (default: yes, except for digits).
        color_jitter: Largest relative change of brightness, contrast and saturation.
        repeats: Number of copies of each image in a batch, augmented independently (repeated augmentation).
    """

    data: Path | None = None
    download: bool = False
    workers: int | None = None
    flip: bool | None = None
    color_jitter: float = 0.0
    repeats: int = 1

    def check(self) -> None:
        """Raise ValueError for values out of range."""
        self.check_least(0, "workers", "color_jitter")
        self.check_least(1, "repeats")


@dataclass(frozen=True)
class MixerSettings(Settings):
    """How batches are mixed.

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
class OptimizerSettings(Settings):
    """Optimizer and learning-rate schedule.

    Args:
        optimizer: sgd (with Nesterov momentum), momentum (without), adamw, or any optimizer of timm.optim.
        optimizer_options: Further arguments of the optimizer, such as --optimizer-options.betas [0.9,0.95].
        lr: Peak learning rate, for the total batch.
        momentum: Momentum of SGD and similar optimizers.
        weight_decay: Weight decay.
        decay_norms: Apply weight decay to normalization layers and biases too.
        clip: Largest norm of the gradients; 0 turns clipping off.
        schedule: cosine, step (times gamma at each milestone), poly (power gamma) or constant; after a
            linear warm-up.
        milestones: Epochs at which --schedule step lowers the learning rate.
        gamma: Factor of --schedule step, or power of --schedule poly.
        warmup_epochs: Epochs of linear warm-up (default: a twentieth of the run).
    """

    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms: bool = True
    clip: float = 0.0
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    warmup_epochs: float | None = None

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(0, "momentum", "weight_decay", "clip", "gamma", "warmup_epochs")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"--lr must be > 0, got {self.lr}")
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                "--schedule step and --milestones [60,120] belong together: give both or neither"
            )


@dataclass(frozen=True)
class RunSettings(OptimizerSettings, MixerSettings, DataSettings):
    """Settings of a training run that do not depend on the task.

    Args:
        epochs: Number of passes over the training images.
        batch_size: Images per step on each device.
        grad_accum_steps: Batches whose gradients are accumulated into one optimizer step.
        evaluate_every: Epochs between two evaluations; the last epoch is always evaluated.
        ema_decay: Evaluate and save an exponential moving average of the weights, such as 0.9995.
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

    epochs: int = 30
    batch_size: int = 128
    grad_accum_steps: int = 1
    evaluate_every: int = 1
    ema_decay: float | None = None
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
        self.check_least(1, "devices", "checkpoint_every")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be in (0, 1), such as 0.9995, got {self.ema_decay}")
        if self.sync_batchnorm and self.device == "cpu":
            raise ValueError("--sync-batchnorm needs GPUs: torch's SyncBatchNorm does not run on a CPU")
        for name in self.loggers:
            if find_spec(name) is None:
                raise ValueError(f"--loggers [{name}] needs a package: pip install {name}")
