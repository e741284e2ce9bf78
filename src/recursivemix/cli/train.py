"""Commands that train: ``fit`` and the tasks of ``transfer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from recursivemix.recipes import read_recipe
from recursivemix.tasks import TASKS, command_of, settings_class
from recursivemix.tasks.settings import (
    ClassificationSettings,
    DetectionSettings,
    InstanceSettings,
    SegmentationSettings,
)
from recursivemix.training.plain_file import read_yaml
from recursivemix.training.settings import RunSettings

from .errors import UsageError
from .parser import parse_options
from .settings_file import values_of
from .trainer import TrainerOptions

COMMON = (
    "data", "dataset", "val_split", "backbone", "detector", "head", "image_size", "model", "weights",
    "pretrained", "mixer",
    "mixer_options", "epochs", "batch_size", "optimizer", "lr", "seed", "device", "devices", "precision",
    "out", "recipe", "resume",
)  # fmt: skip
"""Options that --help shows; the others are under --help-all."""
HARMLESS = (
    "workers", "checkpoint_every", "loggers", "download", "shard_cache", "shard_cache_gb",
    "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
    "trainer.profiler",
)  # fmt: skip
"""Settings that do not change what a run computes."""


@dataclass(frozen=True)
class SettingsSource:
    """Settings of a recipe or of an earlier run.

    Args:
        recipe: Recipe whose settings to use, see recursivemix recipes; flags override them.
        resume: Run folder or checkpoint to resume, with the settings of the run.
        resume_changed: Resume although settings differ from those of the run.
        trust_config: Accept settings in --config or --resume that name classes outside Lightning; they can
            run any code.
    """

    recipe: str | None = None
    resume: Path | None = None
    resume_changed: bool = False
    trust_config: bool = False


def fit(source: SettingsSource, settings: ClassificationSettings, trainer: TrainerOptions) -> None:
    """Train a network on mixed batches.

    Examples:
        recursivemix fit --data DIR --model resnet18 --epochs 60
        recursivemix fit --data DIR --val-split 0.2 --mixer cutmix --mixer-options.prob 0.5
        recursivemix fit --recipe cifar100-resnet18 --data DIR
        recursivemix fit --resume RUN
    """
    from recursivemix.explain.gallery import MixedBatchGallery

    from .running import train

    resume = checkpoint_to_resume("fit", fit, source, settings, trainer)
    train(settings, trainer, resume, source.resume_changed, MixedBatchGallery())


def transfer_detection(
    source: SettingsSource, settings: DetectionSettings, trainer: TrainerOptions
) -> None:
    """Train a detector on a trained backbone.

    Examples:
        recursivemix transfer detection --backbone RUN/checkpoints/last.ckpt --data DIR
        recursivemix transfer detection --detector retinanet --backbone resnet50 --download --data DIR
    """
    from .running import transfer

    resume = checkpoint_to_resume("transfer detection", transfer_detection, source, settings, trainer)
    transfer(settings, trainer, resume, source.resume_changed)


def transfer_instance(source: SettingsSource, settings: InstanceSettings, trainer: TrainerOptions) -> None:
    """Train Mask R-CNN on a trained backbone.

    Examples:
        recursivemix transfer instance --backbone RUN/checkpoints/last.ckpt --data DIR
    """
    from .running import transfer

    resume = checkpoint_to_resume("transfer instance", transfer_instance, source, settings, trainer)
    transfer(settings, trainer, resume, source.resume_changed)


def transfer_segmentation(
    source: SettingsSource, settings: SegmentationSettings, trainer: TrainerOptions
) -> None:
    """Train a semantic segmentation network on a trained backbone.

    Examples:
        recursivemix transfer segmentation --head upernet --backbone RUN/checkpoints/last.ckpt --data DIR
    """
    from .running import transfer

    resume = checkpoint_to_resume("transfer segmentation", transfer_segmentation, source, settings, trainer)
    transfer(settings, trainer, resume, source.resume_changed)


def expand(command: str, options: Sequence[str]) -> list[str]:
    """Return the options after those of ``--recipe`` or ``--resume``, so that flags override these.

    ``--weights`` and ``--crop`` also remove settings of the recipe that exclude them.

    Raises:
        UsageError: no such recipe or run, or both are given.
    """
    resume, recipe = values_of(options, "--resume")[-1:], values_of(options, "--recipe")[-1:]
    if resume and recipe:
        raise UsageError("--resume uses the settings of its run: leave --recipe out")
    if resume:
        file = settings_file(Path(resume[0]))
        check_command(command, file)
        return ["--config", str(file), *options]
    if recipe:
        found = read_recipe(recipe[0])
        if found.task != command.removeprefix("transfer "):
            raise UsageError(f"the recipe {found.name} is for another command: {found.header['command']}")
        settings = found.settings_with(*values_of(options, "--mixer")[-1:])
        if values_of(options, "--weights"):
            settings.pop("pretrained", None)
        if values_of(options, "--crop")[-1:] in (["pad"], ["none"]):
            settings = {name: value for name, value in settings.items() if not name.startswith("crop_")}
        # What --print-config writes has the recipe's settings: a file cannot name a recipe.
        return ["--config", yaml.safe_dump(settings), *options, "--recipe=null"]
    return list(options)


def check_command(command: str, file: Path) -> None:
    """Raise UsageError if the settings in a file are those of runs of another command."""
    names = read_yaml(file).keys() - {"trainer"}
    known = {task: {field.name for field in fields(settings_class(task))} for task in TASKS}
    # The settings of one task may hold all of another's: the one with the fewest made the file.
    possible = sorted((len(known[task]), task) for task in TASKS if names <= known[task])
    if not possible:
        return
    task = possible[0][1]
    other = command_of(task)
    if other != command:
        raise UsageError(f"--resume: {file.parent} is not a run of recursivemix {command}, but of {other}")


def checkpoint_to_resume(
    name: str,
    command: Callable[..., None],
    source: SettingsSource,
    settings: RunSettings,
    trainer: TrainerOptions,
) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        UsageError: there is none, or settings differ from those of its run.
    """
    if source.resume is None:
        return None
    trust = ["--trust_config"] * source.trust_config
    before = parse_options(name, command, ["--config", str(settings_file(source.resume)), *trust])
    # Folders that the run made, such as those of downloads, have absolute paths only now.
    was = flat(before["settings"].with_absolute_paths(), before["trainer"])
    now = flat(settings.with_absolute_paths(), trainer)
    changes = [
        f"--{key.replace('_', '-')} is {now.get(key, 'unset')}, was {was.get(key, 'unset')}"
        for key in sorted(was.keys() | now.keys())
        if key not in HARMLESS and str(was.get(key)) != str(now.get(key))
    ]
    if changes and not source.resume_changed:
        raise UsageError(
            f"the settings differ from the run's: {'; '.join(changes)}; to resume with them add "
            f"--resume-changed"
        )
    return checkpoint_of(source.resume)


def checkpoint_of(resume: Path) -> Path:
    """Return the last checkpoint of a run folder, or the checkpoint itself.

    A run that was killed between its first two checkpoints has only ``best.ckpt``.

    Raises:
        UsageError: there is none.
    """
    if resume.is_file():
        return resume
    if not resume.is_dir():
        raise UsageError(f"--resume: there is no run {resume}")
    last, best = (resume / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    if last.is_file() or best.is_file():
        return last if last.is_file() else best
    others = sorted((resume / "checkpoints").glob("*.ckpt"))
    before = "it was stopped before the first one: remove it and start anew"
    hint = f"name {others[0]}" if others else before
    raise UsageError(f"--resume: the run {resume} has no checkpoint {last}; {hint}")


def settings_file(resume: Path) -> Path:
    """Return the file of settings of the run to resume.

    Raises:
        UsageError: there is none.
    """
    file = checkpoint_of(resume).absolute().parent.parent / "config.yaml"
    if not file.is_file():
        raise UsageError(f"--resume: the settings of the run are not there: {file}")
    return file


def flat(settings: RunSettings, trainer: TrainerOptions) -> dict[str, Any]:
    """Return all settings with the names of their options."""
    return settings.as_plain() | {f"trainer.{name}": value for name, value in trainer.items()}
