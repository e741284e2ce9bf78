"""What every run needs, whatever it trains: its folder, Lightning's trainer, checkpoints, its result."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .checkpoints import AtomicCheckpoints, Checkpoints
from .epochs import EpochRows
from .learner import Learner
from .loaders import RunLoaders
from .settings import Device, Precision, RunSettings

LightningPrecision = Literal["bf16-mixed", "16-mixed", "32-true"]
PRECISIONS: dict[Precision, LightningPrecision] = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
FOLDER_VARIABLE = "RECURSIVEMIX_RUN_FOLDER"


class RunData(Protocol):
    """What the data of every run say."""

    @property
    def evaluation(self) -> Sized: ...
    @property
    def split(self) -> str: ...


ConfigT = TypeVar("ConfigT", bound=RunSettings)
DataT = TypeVar("DataT", bound=RunData)
LearnerT = TypeVar("LearnerT", bound=Learner)
LoadersT = TypeVar("LoadersT", bound=RunLoaders)


@dataclass(frozen=True)
class PreparedRun(Generic[ConfigT, DataT, LearnerT, LoadersT]):
    """A run that passed every check and has written nothing yet."""

    config: ConfigT
    data: DataT
    module: LearnerT
    loaders: LoadersT
    folder: Path
    rows: EpochRows
    trainer: Trainer
    resume: Path | None
    """The checkpoint it goes on from."""


@dataclass(frozen=True)
class Result:
    """What a finished run knows of itself; scores are the learner's, in percent of the evaluation split."""

    folder: Path
    rows: list[dict[str, float]]
    last: float
    """The score at the last epoch."""
    best: float
    best_epoch: int
    seconds: float
    images_per_second: float
    """Training alone."""
    evaluated: int
    """Images that the score is of."""


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


def run_folder(out: Path | None, name: str) -> Path:
    """The folder of a run, new and the same for all processes of it; makes nothing.

    Args:
        out: as asked for; None makes one of the time and the name.
        name: what the run is of.
    """
    known = os.environ.get(FOLDER_VARIABLE)
    rank = launched_rank()
    if rank > 0 and known is not None:
        return Path(known)
    processes = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if out is None and known is None and processes > 1:
        raise ValueError("several processes must agree on the run folder: name it with --out")
    folder = out or Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}-{name}")
    if rank == 0 and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        more = f", or go on with --resume {folder}" if (folder / "checkpoints").is_dir() else ""
        raise ValueError(f"the run folder {folder} already exists: name a new one with --out{more}")
    return folder


def check_checkpoint(
    checkpoint: dict[str, Any], path: Path, module: Learner, trainer: Trainer, changed: bool
) -> None:
    """Raises ValueError for a checkpoint that the run can't go on from, and says why."""
    saved, own = checkpoint["hyper_parameters"], module.hparams
    for name in module.same:
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
    config: RunSettings,
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
        "gradient_clip_val": config.clip or None,
        "check_val_every_n_epoch": config.evaluate_every,
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
            "--trainer.val-check-interval: the score is measured as an epoch ends, so that rows and best "
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


def further_loggers(config: RunSettings, folder: Path) -> list[Logger]:
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


def fit(run: PreparedRun[Any, Any, Any, Any]) -> Result:
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
            score = run.module.score
            evaluated = [row for row in rows if score in row]
            if score not in rows[-1]:  # trainer.check_val_every_n_epoch skipped the last epoch
                loader = run.loaders.evaluation_dataloader()
                (metrics,) = trainer.validate(run.module, loader, verbose=False)
                rows[-1] |= {name: float(value) for name, value in metrics.items()}
                if trainer.is_global_zero:
                    run.rows.write()
    finally:
        del os.environ[FOLDER_VARIABLE]
    # The epoch of best.ckpt: one that was evaluated while training.
    best = max(evaluated or rows[-1:], key=lambda row: row[score])
    limit = trainer.num_val_batches[0] * run.config.batch_size * trainer.world_size
    return Result(
        folder=run.folder,
        rows=rows,
        last=rows[-1][score],
        best=best[score],
        best_epoch=int(best["epoch"]),
        seconds=rows[-1]["seconds"],
        images_per_second=run.rows.images / run.rows.train_seconds,
        evaluated=int(min(limit, len(run.data.evaluation))),  # trainer.limit_val_batches
    )


def compile_network(network: nn.Module, device: Device) -> None:
    """torch.compile in place, so that names of parameters stay; one graph for each batch size."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    network.compile(mode="reduce-overhead" if on_gpu else "default", dynamic=False)
