"""One training run, from its settings to its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, seed_everything

from recursivemix.data.augment import augmentation_of
from recursivemix.data.images import ImageData
from recursivemix.data.names import Cache, Crop, Source
from recursivemix.data.open import open_data
from recursivemix.training.checkpoints import read_checkpoint
from recursivemix.training.epochs import EpochRows
from recursivemix.training.loaders import Loaders
from recursivemix.training.optimizer import Schedule, check_optimizer
from recursivemix.training.run import (
    Device,
    Precision,
    PreparedRun,
    check_checkpoint,
    check_device,
    launched_rank,
    make_trainer,
    run_folder,
)

from .classification import MixedClassifier

FitRun = PreparedRun["FitConfig", ImageData, MixedClassifier, Loaders]
MODULE_SETTINGS = (
    "region_head", "mix_start", "mix_stop", "optimizer", "optimizer_options", "lr", "momentum",
    "weight_decay", "decay_norms", "schedule", "milestones", "gamma", "warmup_epochs", "seed",
)  # fmt: skip
"""What `FitConfig` and `MixedClassifier` call the same."""


@dataclass(frozen=True)
class FitConfig:
    """Settings of a training run.

    Args:
        data: Folder of images: DIR/train/CLASS and DIR/val/CLASS (or test), or DIR/CLASS with --val-split;
            a folder with CIFAR's binaries; with --dataset hf the name of a Hugging Face data set. Without
            it, scikit-learn's handwritten digits.
        dataset: What --data is: auto (look), digits, folder, cifar10, cifar100 or hf.
        download: Fetch CIFAR or a Hugging Face data set; nothing else reaches the network.
        val_split: Share of every class to hold out, where the folder has no val or test.
        image_size: Pixels a side. Default: the images' own size up to 64, else 224.
        train_images: Train on so many of the training images, of every class its share; chosen by --seed.
        skip_bad: Read every file once first and leave the unreadable ones out, with a list.
        cache: Hold all images decoded in memory (on the device, where they fit): yes, no, or auto for small
            images of up to 2 GiB together.
        workers: Processes that read images. Default: 0 for the digits, else 2.
        crop: pad (moved over black, for small images), resized (a random share, for large ones) or none.
        flip: Mirror half of the images. Default: yes, but not for the digits.
        color_jitter: Share by which brightness, contrast and saturation vary.
        lighting: Standard deviation of PCA lighting noise; 0.1 in the paper's ImageNet recipe.
        repeats: Copies of an image in a batch, each varied by itself (repeated augmentation).
        model: resnet20 and its family for small images, or any timm model name.
        mixer: The method, such as none, cutmix or recursivemix; docs/methods has a card of each.
        mixer_options: Settings of the mixer, such as --mixer-options.omega 0.1.
        region_head: separate (the paper's) or shared; for a mixer that trains regions.
        mix_start: First epoch that is mixed, counted from 0.
        mix_stop: First epoch that is mixed no more.
        label_smoothing: Share of each label that is spread over all classes.
        epochs: Passes over the training images.
        batch_size: Images a step, on each device.
        grad_accum_steps: Batches whose gradients make one step of the optimiser.
        optimizer: sgd (with Nesterov momentum), momentum (without), adamw, or any of timm.optim.
        optimizer_options: Further settings of the optimiser, such as --optimizer-options.betas [0.9,0.95].
        lr: Peak learning rate, for the whole batch.
        momentum: Of SGD and its kin.
        weight_decay: Weight decay.
        decay_norms: Weight decay on norms and biases too.
        schedule: cosine, step (by gamma at each milestone), poly (to the power of gamma) or constant; by
            step, after a linear warm-up.
        milestones: Epochs at which --schedule step lowers the rate.
        gamma: What --schedule step multiplies the rate by, or the power of --schedule poly.
        warmup_epochs: Epochs over which the rate rises. Default: a twentieth of the run.
        ema_decay: Evaluate and keep an exponential moving average of the weights, such as 0.9995.
        seed: Of weights, order, augmentation and mixing.
        device: cpu, gpu, or auto for what is there.
        devices: How many of them train together. Default: 1, or what the launcher says.
        sync_batchnorm: Batch norm over all devices together; GPUs alone.
        precision: bf16, 16, 32, or auto: bf16 where the processor computes in it.
        compile: Compile the network with torch.compile; on a GPU with CUDA graphs.
        loggers: wandb, mlflow or both, beside the CSV and TensorBoard.
        checkpoint_every: Steps between two checkpoints. Default: by the clock, 30 s or more apart, for at
            most a fiftieth of the time.
        out: Folder of the run; must be new. Default: runs/DATE-TIME-MODEL-MIXER.
    """

    data: Path | None = None
    dataset: Source = "auto"
    download: bool = False
    val_split: float | None = None
    image_size: int | None = None
    train_images: int | None = None
    skip_bad: bool = False
    cache: Cache = "auto"
    workers: int | None = None
    crop: Crop | None = None
    flip: bool | None = None
    color_jitter: float = 0.0
    lighting: float = 0.0
    repeats: int = 1
    model: str = "resnet20"
    mixer: str = "recursivemix"
    mixer_options: dict[str, Any] = field(default_factory=dict)
    region_head: Literal["separate", "shared"] = "separate"
    mix_start: int = 0
    mix_stop: int | None = None
    label_smoothing: float = 0.0
    epochs: int = 30
    batch_size: int = 128
    grad_accum_steps: int = 1
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms: bool = True
    schedule: Schedule = "cosine"
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    warmup_epochs: float | None = None
    ema_decay: float | None = None
    seed: int = 0
    device: Device = "auto"
    devices: int | None = None
    sync_batchnorm: bool = False
    precision: Precision = "auto"
    compile: bool = False
    loggers: list[Literal["wandb", "mlflow"]] = field(default_factory=list)
    checkpoint_every: int | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        least = {
            "epochs": 1, "batch_size": 1, "image_size": 1, "workers": 0, "weight_decay": 0, "repeats": 1,
            "grad_accum_steps": 1, "devices": 1, "checkpoint_every": 1, "color_jitter": 0, "lighting": 0,
            "mix_start": 0, "momentum": 0, "warmup_epochs": 0, "gamma": 0,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
        if self.lr <= 0:
            raise ValueError(f"--lr must be above 0, got {self.lr}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be in (0, 1), such as 0.9995, got {self.ema_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.mix_stop is not None and self.mix_stop <= self.mix_start:
            raise ValueError(
                f"--mix-stop {self.mix_stop} leaves no epoch to mix after --mix-start {self.mix_start}; "
                f"--mixer none mixes nothing"
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError("--schedule step and --milestones [60,120] belong together")
        if self.sync_batchnorm and self.device == "cpu":
            raise ValueError("--sync-batchnorm needs GPUs: torch's SyncBatchNorm does not run on a CPU")
        for name in self.loggers:
            if find_spec(name) is None:
                raise ValueError(f"--loggers [{name}] needs a package: pip install {name}")
        check_optimizer(self.optimizer)
        check_device(self.device)


def as_words(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which YAML took a word for something else: yes is a truth to it, and 32 a number."""
    words = dict(settings)
    if "precision" in words:
        words["precision"] = str(words["precision"])
    if isinstance(words.get("cache"), bool):
        words["cache"] = "yes" if words["cache"] else "no"
    return words


def open_run_data(config: FitConfig) -> ImageData:
    """The data of a run; raises ValueError for what can't be opened."""
    return open_data(
        config.data,
        config.dataset,
        download=config.download,
        val_split=config.val_split,
        image_size=config.image_size,
        train_images=config.train_images,
        skip_bad=config.skip_bad,
        seed=config.seed,
    )


def prepare(
    config: FitConfig,
    callbacks: Sequence[Callback],
    trainer_options: dict[str, Any],
    resume: Path | None = None,
    changed: bool = False,
) -> FitRun:
    """Load the data, build network, mixer and trainer; raises ValueError for anything that can't be.

    Args:
        config: the run's settings.
        callbacks: more of them, for pictures.
        trainer_options: arguments of Lightning's Trainer; they win over the run's settings.
        resume: a checkpoint of the run, in RUN/checkpoints, to go on from.
        changed: go on from it with other data or another number of processes, too.

    Raises:
        ValueError: anything that the person who chose the settings can mend.
    """
    name = f"{config.model}-{config.mixer}"
    folder = run_folder(config.out, name) if resume is None else resume.absolute().parent.parent
    data = open_run_data(config)
    seed_everything(config.seed, verbose=False)
    if config.label_smoothing and "label_smoothing" in config.mixer_options:
        raise ValueError("--label-smoothing and --mixer-options.label-smoothing are the same: give one")
    smoothing = {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
    module = MixedClassifier(
        model=config.model,
        classes=list(data.classes),
        image_size=data.image_size,
        mixer=config.mixer,
        mixer_options=smoothing | config.mixer_options,
        data={
            "dataset": config.dataset if config.data is not None else "digits",
            "val_split": config.val_split,
            "seed": config.seed,
            "images": len(data.train),
            "mean": list(data.mean),
            "std": list(data.std),
        },
        **{name: getattr(config, name) for name in MODULE_SETTINGS},
    )
    workers = config.workers if config.workers is not None else 0 if config.data is None else 2
    loaders = Loaders(
        data,
        augmentation_of(
            data,
            crop=config.crop,
            flip=config.flip,
            color_jitter=config.color_jitter,
            lighting=config.lighting,
        ),
        batch_size=config.batch_size,
        workers=workers,
        cache=config.cache,
        repeats=config.repeats,
        seed=config.seed,
        progress=launched_rank() == 0,
    )
    rows = EpochRows(folder / "metrics.csv", MixedClassifier)
    checkpoint = None if resume is None else read_checkpoint(resume)
    # Points after the checkpoint were written by a run that is no more.
    purge = None if checkpoint is None else int(checkpoint["global_step"]) + 1
    trainer = make_trainer(config, folder, [rows, *callbacks], trainer_options, purge)
    if resume is not None and checkpoint is not None:
        check_checkpoint(checkpoint, resume, module, trainer, changed)
    return FitRun(config, data, module, loaders, folder, rows, trainer, resume)
