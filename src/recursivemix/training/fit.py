"""One training run, from its settings to its folder."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from recursivemix.data.augment import Crop, augmentation_of
from recursivemix.data.images import ImageData
from recursivemix.data.open import Source, open_data

from .checkpoints import AtomicCheckpoints, Checkpoints, read_checkpoint
from .epochs import EpochRows
from .loaders import Cache, Loaders
from .module import MixedClassifier
from .optimizer import Schedule, check_optimizer

Device = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "bf16", "16", "32"]
LightningPrecision = Literal["bf16-mixed", "16-mixed", "32-true"]
PRECISIONS: dict[Precision, LightningPrecision] = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
MODULE_SETTINGS = (
    "region_head", "mix_start", "mix_stop", "optimizer", "optimizer_options", "lr", "momentum",
    "weight_decay", "decay_norms", "schedule", "milestones", "gamma", "warmup_epochs", "seed",
)  # fmt: skip
"""What `FitConfig` and `MixedClassifier` call the same."""
FOLDER_VARIABLE = "RECURSIVEMIX_RUN_FOLDER"


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
        schedule: cosine, step (by gamma at each milestone) or constant; by step, after a linear warm-up.
        milestones: Epochs at which --schedule step lowers the rate.
        gamma: What --schedule step multiplies the rate by.
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


@dataclass(frozen=True)
class PreparedRun:
    """A run that passed every check and has written nothing yet."""

    config: FitConfig
    data: ImageData
    module: MixedClassifier
    loaders: Loaders
    folder: Path
    rows: EpochRows
    trainer: Trainer
    resume: Path | None
    """The checkpoint it goes on from."""


@dataclass(frozen=True)
class Result:
    """What a finished run knows of itself. Accuracies are percent of the evaluation split."""

    folder: Path
    rows: list[dict[str, float]]
    acc1: float
    """At the last epoch."""
    best_acc1: float
    best_epoch: int
    seconds: float
    images_per_second: float
    """Training alone."""
    evaluated: int
    """Images that the accuracy is of."""


def check_device(device: str) -> None:
    """Say early, and in one line, that there is no GPU."""
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: torch sees no GPU on this machine; use --device cpu")


def lightning_precision(precision: Precision, device: Device) -> LightningPrecision:
    """Lightning's name for a precision; "auto" is bfloat16 where the hardware multiplies in it."""
    if precision != "auto":
        return PRECISIONS[precision]
    if device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def run_folder(config: FitConfig) -> Path:
    """The folder of a run, new and the same for all processes of it; makes nothing."""
    known = os.environ.get(FOLDER_VARIABLE)
    rank = launched_rank()
    if rank > 0 and known is not None:
        return Path(known)
    processes = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if config.out is None and known is None and processes > 1:
        raise ValueError("several processes must agree on the run folder: name it with --out")
    folder = config.out or Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{config.model}-{config.mixer}")
    if rank == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        more = f", or go on with --resume {folder}" if (folder / "checkpoints").is_dir() else ""
        raise ValueError(f"the run folder {folder} already exists: name a new one with --out{more}")
    return folder


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
) -> PreparedRun:
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
    folder = run_folder(config) if resume is None else resume.absolute().parent.parent
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
    rows = EpochRows(folder / "metrics.csv")
    checkpoint = None if resume is None else read_checkpoint(resume)
    # Points after the checkpoint were written by a run that is no more.
    purge = None if checkpoint is None else int(checkpoint["global_step"]) + 1
    trainer = make_trainer(config, folder, [rows, *callbacks], trainer_options, purge)
    if resume is not None and checkpoint is not None:
        check_checkpoint(checkpoint, resume, module, trainer, changed)
    return PreparedRun(config, data, module, loaders, folder, rows, trainer, resume)


def check_checkpoint(
    checkpoint: dict[str, Any], path: Path, module: MixedClassifier, trainer: Trainer, changed: bool
) -> None:
    """Raises ValueError for a checkpoint that the run can't go on from, and says why."""
    saved, own = checkpoint["hyper_parameters"], module.hparams
    for name in ("model", "classes", "image_size", "mixer"):
        if saved[name] != own[name]:
            raise ValueError(
                f"the checkpoint {path} is of another run: its {name} is {saved[name]}, here it is "
                f"{own[name]}"
            )
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["total"]["processed"]
    epochs = trainer.max_epochs
    if epochs is not None and done >= epochs:
        raise ValueError(f"the run is finished: {path} is of epoch {done} of {epochs}")
    if trainer.max_steps != -1:
        raise ValueError(
            "a run with --trainer.max-steps can't be taken up exactly: its epochs end where the steps do"
        )
    differences = {
        "processes": (len(checkpoint["ranks"]), trainer.world_size),
        "training images": (saved["data"]["images"], own["data"]["images"]),
    }
    for name, (before, now) in differences.items():
        if before != now and not changed:
            raise ValueError(
                f"the run was of {before} {name}, here are {now}: go on nevertheless with --resume-changed"
            )


def make_trainer(
    config: FitConfig,
    folder: Path,
    callbacks: list[Callback],
    trainer_options: dict[str, Any],
    purge: int | None = None,
) -> Trainer:
    """Lightning's Trainer with what a run always has: checkpoints, a TensorBoard log, the average.

    ``purge`` is the first step whose points an earlier log is to forget.
    """
    if config.ema_decay is not None:
        average = WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))  # type: ignore[no-untyped-call]
        callbacks = [average, *callbacks]
    options: dict[str, Any] = {
        "max_epochs": config.epochs,
        "accelerator": config.device,
        "devices": config.devices or launched_devices(),
        "precision": lightning_precision(config.precision, config.device),
        "accumulate_grad_batches": config.grad_accum_steps,
        "sync_batchnorm": config.sync_batchnorm,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 50,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # the loaders know their process
        "logger": TensorBoardLogger(folder, name="tensorboard", version="", purge_step=purge),
    } | trainer_options
    given = options.pop("callbacks", None) or []
    given = given if isinstance(given, list) else [given]
    plugins = options.pop("plugins", None) or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    for name in ("limit_train_batches", "limit_val_batches", "max_epochs"):
        if options.get(name) == 0:
            raise ValueError(f"--trainer.{name.replace('_', '-')} 0 leaves nothing to train or to evaluate")
    if (options["max_epochs"] or 1) < 1:
        raise ValueError(
            "--trainer.max-epochs -1 has no end that the learning rate could fall to: --epochs N"
        )
    if options.get("val_check_interval") not in (None, 1.0):
        raise ValueError(
            "--trainer.val-check-interval: accuracy is measured as an epoch ends, so that rows and best "
            "checkpoint are of the same weights; rarer with --trainer.check-val-every-n-epoch"
        )
    if options.pop("enable_checkpointing", True) is False:
        raise ValueError(
            "--trainer.enable_checkpointing false: a run without checkpoints can't be taken up"
        )
    checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint_every)
    try:
        with quiet_lightning():
            return Trainer(
                **options,
                enable_checkpointing=True,
                callbacks=[*callbacks, *given, checkpoints],
                plugins=[AtomicCheckpoints(), *plugins],
            )
    except (MisconfigurationException, ValueError) as error:
        raise ValueError(f"Lightning's Trainer refuses: {error}") from error


def launched_devices() -> int:
    """How many processes torchrun or srun started on this machine; 1 without them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", "1")))


def launched_rank() -> int:
    """This process's rank as its launcher tells it, before any group of processes is there."""
    return int(getattr(rank_zero_only, "rank", 0))


def further_loggers(config: FitConfig, folder: Path) -> list[Logger]:
    """The loggers that were asked for beside CSV and TensorBoard; made late, since they write at once."""
    loggers: list[Logger] = []
    for name in config.loggers:
        try:
            if name == "wandb":
                loggers.append(WandbLogger(project="recursivemix", name=folder.name, save_dir=folder))
            else:
                address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
                loggers.append(MLFlowLogger("recursivemix", folder.name, tracking_uri=address))
            _ = loggers[-1].experiment  # type: ignore[attr-defined]  # speaks to its server now, not later
        except Exception as error:  # anything that a tracking server may have against us
            raise MisconfigurationException(f"--loggers [{name}]: {error}") from error
    return loggers


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advertisements and its advice for large machines; real warnings still show."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning's own use of torch; nothing its user can mend.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)


def fit(run: PreparedRun) -> Result:
    """Train, and leave in the run's folder the checkpoints, a CSV and a TensorBoard log.

    Raises:
        NonFiniteLossError: training went wrong; the last good checkpoint is kept.
        CheckpointError: a checkpoint can't be written; the one before is kept.
        StoppedError: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    if run.trainer.is_global_zero:
        run.folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER_VARIABLE] = str(run.folder)  # for the processes that Lightning starts
    trainer = run.trainer
    try:
        with quiet_lightning():
            trainer.loggers = [*trainer.loggers, *further_loggers(run.config, run.folder)]
            run.loaders.fill_cache()
            if run.config.compile:
                compile_network(run.module.network, run.config.device)
            trainer.fit(
                run.module,
                datamodule=run.loaders,
                ckpt_path=None if run.resume is None else str(run.resume),
                weights_only=True,
            )
            rows = run.rows.rows
            if not rows:
                raise MisconfigurationException(
                    "no epoch was finished: see --epochs and --trainer.max-steps"
                )
            evaluated = [row for row in rows if "acc1" in row]
            if "acc1" not in rows[-1]:  # trainer.check_val_every_n_epoch skipped the last epoch
                loader = run.loaders.evaluation_dataloader()
                (metrics,) = trainer.validate(run.module, loader, verbose=False)
                rows[-1] |= {name: float(value) for name, value in metrics.items()}
                if trainer.is_global_zero:
                    run.rows.write()
    finally:
        del os.environ[FOLDER_VARIABLE]
    # The epoch of best.ckpt: one that was evaluated while training.
    best = max(evaluated or rows[-1:], key=lambda row: row["acc1"])
    limit = trainer.num_val_batches[0] * run.config.batch_size * trainer.world_size
    return Result(
        folder=run.folder,
        rows=rows,
        acc1=rows[-1]["acc1"],
        best_acc1=best["acc1"],
        best_epoch=int(best["epoch"]),
        seconds=rows[-1]["seconds"],
        images_per_second=run.rows.images / run.rows.train_seconds,
        evaluated=int(min(limit, len(run.data.evaluation))),  # trainer.limit_val_batches
    )


def compile_network(network: nn.Module, device: Device) -> None:
    """torch.compile in place, so that names of parameters stay; one graph for each batch size."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    network.compile(mode="reduce-overhead" if on_gpu else "default", dynamic=False)
