"""The runs of a comparison: methods times seeds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from recursivemix.evaluation.probes import select_probes
from recursivemix.training.prepare import prepare
from recursivemix.training.settings import RunSettings
from recursivemix.training.task import task_of

from .settings import CompareSettings


@dataclass(frozen=True)
class Run:
    """One training run; plain values, so that it can be sent to another machine."""

    folder: str
    """Below the comparison's folder."""
    command: tuple[str, ...]
    """Words after ``recursivemix`` that start it."""
    settings: dict[str, Any]
    """Settings of the command, without ``out`` and the backbone."""
    seed: int
    label: str | None = None
    """The method; None for a run that trains a backbone."""
    backbone: str | None = None
    """Folder, below the comparison's, of the run that trains its backbone."""
    probes: str | None = None
    """Probes to evaluate its checkpoint with; None if it is not evaluated."""
    images: int = 0
    """Number of test images for the probes."""

    @property
    def name(self) -> str:
        """The last part of the folder, such as cutmix-seed0."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True)
class Job:
    """Runs that one worker makes in this order."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The name of the first run."""
        return self.runs[0].name


def jobs_of(settings: CompareSettings) -> list[Job]:
    """Return all jobs; those of a seed before those of the next, so that finished runs can be compared.

    A backbone and the runs that start from it are one job.
    """
    jobs = []
    for seed in settings.all_seeds:
        if not settings.pretrains:
            jobs += [Job((run_of(settings, label, seed),)) for label in settings.labels]
            continue
        for mixer in settings.named_mixers:
            folder = f"backbones/{mixer}-seed{seed}"
            command = ("fit", *trust_words(settings))
            first = Run(folder, command, settings.pretrain_settings(mixer, seed), seed)
            labels = [label for label in settings.labels if settings.method(label)["backbone"] == mixer]
            jobs.append(Job((first, *(run_of(settings, label, seed, folder) for label in labels))))
    return jobs


def run_of(settings: CompareSettings, label: str, seed: int, backbone: str | None = None) -> Run:
    """Return the run of one method and seed."""
    command = ("transfer", settings.task) if settings.is_dense else ("fit",)
    return Run(
        folder=f"runs/{label}-seed{seed}",
        command=(*command, *trust_words(settings)),
        settings=settings.run_settings(label, seed),
        seed=seed,
        label=label,
        backbone=backbone,
        probes=None if settings.is_dense else settings.probes,
        images=settings.images,
    )


def trust_words(settings: CompareSettings) -> tuple[str, ...]:
    """Return the flag that lets runs create classes outside Lightning, if the comparison has it."""
    return ("--trust-config",) if settings.trust_config else ()


def labelled_runs(settings: CompareSettings) -> list[Run]:
    """Return the runs that are compared, without those that train backbones."""
    return [run for job in jobs_of(settings) for run in job.runs if run.label is not None]


def check_grid(settings: CompareSettings) -> None:
    """Check everything that can be known before the runs: settings, data, networks and mixers.

    Raises:
        ValueError: names the method and what is wrong.
    """
    settings.check_methods()
    select_probes(settings.probes)
    seed = settings.first_seed
    if settings.pretrains:
        before = {name: settings.pretrain_run(name, seed) for name in settings.named_mixers}
        _check_runs("backbone", before, {}, lambda _: settings.typed_as())
    trainer = settings.settings.get("trainer", {})
    runs = {label: settings.standalone_run(label, seed) for label in settings.labels}
    _check_runs("method", runs, trainer, settings.typed_as)


def _check_runs(
    kind: str,
    runs: dict[str, RunSettings],
    trainer: dict[str, Any],
    typed_as: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Prepare the first run; of the others, which have the same data, create the networks alone."""
    data = None
    for name, run in runs.items():
        try:
            with typed_as(name):
                if data is None:
                    data = prepare(run, trainer_options=trainer).data
                else:
                    task_of(run).create_learner(run, data, None)
        except ValueError as error:
            raise ValueError(f"{kind} {name!r}: {error}") from error
