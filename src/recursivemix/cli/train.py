"""Commands that train: ``fit`` and the tasks of ``transfer``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from recursivemix.recipes import read_recipe
from recursivemix.tasks.settings import (
    ClassificationSettings,
    DetectionSettings,
    InstanceSettings,
    SegmentationSettings,
    TransferSettings,
)
from recursivemix.training.settings import RunSettings

from .errors import Failed, Interrupted, UsageError, one_line, usage_errors
from .parser import parse_options
from .trainer import TrainerOptions, values_of

if TYPE_CHECKING:
    from recursivemix.training.run import PreparedRun, Result

    AnyRun = PreparedRun[Any, Any, Any, Any]

SettingsT = TypeVar("SettingsT", bound=RunSettings)
COMMON = (
    "data", "dataset", "val_split", "backbone", "detector", "head", "image_size", "model", "mixer",
    "mixer_options", "epochs", "batch_size", "optimizer", "lr", "seed", "device", "devices", "precision",
    "out", "recipe", "resume",
)  # fmt: skip
"""Options that --help shows; the others are under --help-all."""
HARMLESS = (
    "workers", "checkpoint_every", "loggers", "download", "trainer.logger", "trainer.callbacks",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "trainer.profiler",
)  # fmt: skip
"""Settings that do not change what a run computes."""


@dataclass(frozen=True)
class SettingsSource:
    """Settings of a recipe or of an earlier run.

    Args:
        recipe: Recipe whose settings to use, see recursivemix recipes; flags override them.
        resume: Run folder or checkpoint to resume, with the settings of the run.
        resume_changed: Resume although settings differ from those of the run.
    """

    recipe: str | None = None
    resume: Path | None = None
    resume_changed: bool = False


def fit(source: SettingsSource, settings: ClassificationSettings, trainer: TrainerOptions) -> None:
    """Train a network on mixed batches.

    Examples:
        recursivemix fit --data DIR --model resnet18 --epochs 60
        recursivemix fit --data DIR --val-split 0.2 --mixer cutmix --mixer-options.prob 0.5
        recursivemix fit --recipe cifar100-resnet18 --data DIR
        recursivemix fit --resume RUN
    """
    from recursivemix.explain.gallery import MixedBatchGallery
    from recursivemix.report.records import write_json, write_text
    from recursivemix.tasks.classification_fit import prepare

    from .records import fit_record, print_result

    settings = with_absolute_paths(settings)
    resume = checkpoint_to_resume("fit", fit, source, settings, trainer)
    gallery = MixedBatchGallery()
    with usage_errors():
        run = prepare(settings, [gallery], trainer.values, resume, source.resume_changed)
    if not run.trainer.is_global_zero:
        follow(run)
        return
    where, config = begin(run, settings, trainer)
    if run.data.skipped:
        write_text(run.folder / "skipped.txt", "\n".join(run.data.skipped) + "\n")
        print(f"left out {len(run.data.skipped)} unreadable files, see {run.folder / 'skipped.txt'}")
    if resume is None:
        gallery.prepare(run.folder / "mixed_batches.png", run.data.classes, run.data.mean, run.data.std)
    result = train(run, "fit")
    write_json(run.folder / "record.json", fit_record(run, result, where, config))
    print_result(run, result)


def transfer_detection(
    source: SettingsSource, settings: DetectionSettings, trainer: TrainerOptions
) -> None:
    """Train a detector on a trained backbone.

    Examples:
        recursivemix transfer detection --backbone RUN/checkpoints/last.ckpt --data DIR
        recursivemix transfer detection --detector retinanet --backbone resnet50 --download --data DIR
    """
    transfer("detection", transfer_detection, source, settings, trainer)


def transfer_instance(source: SettingsSource, settings: InstanceSettings, trainer: TrainerOptions) -> None:
    """Train Mask R-CNN on a trained backbone.

    Examples:
        recursivemix transfer instance --backbone RUN/checkpoints/last.ckpt --data DIR
    """
    transfer("instance", transfer_instance, source, settings, trainer)


def transfer_segmentation(
    source: SettingsSource, settings: SegmentationSettings, trainer: TrainerOptions
) -> None:
    """Train a semantic segmentation network on a trained backbone.

    Examples:
        recursivemix transfer segmentation --head upernet --backbone RUN/checkpoints/last.ckpt --data DIR
    """
    transfer("segmentation", transfer_segmentation, source, settings, trainer)


def transfer(
    task: str,
    command: Callable[..., None],
    source: SettingsSource,
    settings: TransferSettings,
    trainer: TrainerOptions,
) -> None:
    """Train on boxes, masks or label maps."""
    from recursivemix.report.predictions import write_predictions
    from recursivemix.report.records import write_json
    from recursivemix.tasks.transfer_fit import prepare

    from .records import print_transfer, transfer_record

    settings = with_absolute_paths(settings)
    resume = checkpoint_to_resume(f"transfer {task}", command, source, settings, trainer)
    with usage_errors():
        run, loaded = prepare(settings, [], trainer.values, resume, source.resume_changed)
    if not run.trainer.is_global_zero:
        follow(run)
        return
    print(f"backbone: {loaded}")
    where, config = begin(run, settings, trainer)
    result = train(run, f"transfer {task}")
    record = transfer_record(run, result, where, task, config)
    write_json(run.folder / "record.json", record | {"backbone": loaded.origin})
    write_predictions(run.module, run.data, run.folder / "predictions.png")
    print_transfer(run, result, task)


def expand(command: str, options: Sequence[str]) -> list[str]:
    """Return the options after those of ``--recipe`` or ``--resume``, so that flags override these.

    Raises:
        UsageError: no such recipe or run, or both are given.
    """
    resume, recipe = values_of(options, "--resume")[-1:], values_of(options, "--recipe")[-1:]
    if resume and recipe:
        raise UsageError("--resume uses the settings of its run: leave --recipe out")
    if resume:
        return ["--config", str(settings_file(Path(resume[0]))), *options]
    if recipe:
        found = read_recipe(recipe[0])
        if found.task != command.removeprefix("transfer "):
            raise UsageError(f"the recipe {found.name} is for another command: {found.header['command']}")
        mixer = values_of(options, "--mixer")[-1:]
        return ["--config", yaml.safe_dump(found.settings_with(*mixer)), *options]
    return list(options)


def with_absolute_paths(settings: SettingsT) -> SettingsT:
    """Return settings with absolute paths, so that the run can be resumed from another folder."""
    paths = {name: getattr(settings, name, None) for name in ("data", "backbone")}
    absolute = {
        name: type(path)(Path(path).absolute())
        for name, path in paths.items()
        if path and Path(path).exists()
    }
    return replace(settings, **absolute)


def checkpoint_to_resume(
    name: str,
    command: Callable[..., None],
    source: SettingsSource,
    settings: Any,
    trainer: TrainerOptions,
) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        UsageError: there is none, or settings differ from those of its run.
    """
    if source.resume is None:
        return None
    before = parse_options(name, command, ["--config", str(settings_file(source.resume))])
    was = flat(before["settings"], before["trainer"])
    now = flat(settings, trainer)
    changes = [
        f"--{key.replace('_', '-')} is {now.get(key, 'unset')}, was {was.get(key, 'unset')}"
        for key in sorted(was.keys() | now.keys())
        if key not in HARMLESS and str(was.get(key)) != str(now.get(key))
    ]
    if changes and not source.resume_changed:
        raise UsageError(
            f"the settings differ from the run's: {'; '.join(changes)}; to resume with them add --resume-changed"
        )
    return checkpoint_of(source.resume)


def checkpoint_of(resume: Path) -> Path:
    """Return the last checkpoint of a run folder, or the checkpoint itself.

    Raises:
        UsageError: there is none.
    """
    if resume.is_file():
        return resume
    last = resume / "checkpoints" / "last.ckpt"
    if not resume.is_dir():
        raise UsageError(f"--resume: there is no run {resume}")
    if not last.is_file():
        others = sorted((resume / "checkpoints").glob("*.ckpt"))
        hint = (
            f"name {others[0]}"
            if others
            else "it was stopped before the first one: remove it and start anew"
        )
        raise UsageError(f"--resume: the run {resume} has no checkpoint {last}; {hint}")
    return last


def settings_file(resume: Path) -> Path:
    """Return the file of settings of the run to resume.

    Raises:
        UsageError: there is none.
    """
    file = checkpoint_of(resume).absolute().parent.parent / "config.yaml"
    if not file.is_file():
        raise UsageError(f"--resume: the settings of the run are not there: {file}")
    return file


def plain(settings: Any) -> dict[str, Any]:
    """Return settings as plain values, for YAML and JSON."""
    values = asdict(settings)
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def flat(settings: Any, trainer: TrainerOptions) -> dict[str, Any]:
    """Return all settings with the names of their options."""
    return plain(settings) | {f"trainer.{name}": value for name, value in trainer.plain.items()}


def begin(run: AnyRun, settings: Any, trainer: TrainerOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Create the run's folder with its settings; return the environment and the settings for the record."""
    from recursivemix.report.records import environment, write_text

    where = environment(gpu=run.config.device != "cpu")
    config = plain(settings) | ({"trainer": trainer.plain} if trainer.plain else {})
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UsageError(f"cannot write the run folder {run.folder} (--out): {error}") from error
    return where, config


def follow(run: AnyRun) -> None:
    """Train on a process that is not the first; the first one reports."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from recursivemix.data.annotated import AnnotationError
    from recursivemix.data.decode import UnreadableImageError
    from recursivemix.models.checkpoint_file import CheckpointError
    from recursivemix.training.checkpoints import NonFiniteLossError, StoppedError
    from recursivemix.training.run import fit

    try:
        fit(run)
    except (StoppedError, NonFiniteLossError, CheckpointError):
        return  # all processes stop; the exit code of the first one counts
    except (UnreadableImageError, AnnotationError, MisconfigurationException) as error:
        raise UsageError(one_line(error)) from error


def train(run: AnyRun, command: str) -> Result:
    """Train; turn failures into one-line errors; delete the run folder if it holds no checkpoint."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from recursivemix.data.annotated import AnnotationError
    from recursivemix.data.decode import UnreadableImageError
    from recursivemix.models.checkpoint_file import CheckpointError
    from recursivemix.training.checkpoints import NonFiniteLossError, StoppedError
    from recursivemix.training.run import fit

    try:
        return fit(run)
    except BaseException as error:
        started = any((run.folder / "checkpoints").glob("*.ckpt"))
        if not started and run.resume is None:
            shutil.rmtree(run.folder, ignore_errors=True)
        hint = (
            f"resume with: recursivemix {command} --resume {run.folder}" if started else "nothing was kept"
        )
        if isinstance(error, StoppedError):
            raise Interrupted(f"{error}; {hint}") from error
        if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Lightning turns the one into the other
            raise Interrupted(f"interrupted; {hint}") from error
        if isinstance(error, (UnreadableImageError, AnnotationError, MisconfigurationException)):
            raise UsageError(one_line(error)) from error
        if isinstance(error, (NonFiniteLossError, CheckpointError, OSError)):
            raise Failed(one_line(error)) from error
        raise
