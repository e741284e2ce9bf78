"""Settings of a comparison and of each of its runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recursivemix.tasks import settings_class
from recursivemix.tasks.settings import undo_yaml_coercion
from recursivemix.training.checked import Checked
from recursivemix.training.settings import RunSettings
from recursivemix.training.trainer_classes import check_classes

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Task = Literal["classification", "detection", "instance", "segmentation"]
Executor = Literal["local", "ray"]
FIXED = ("data", "dataset", "seed", "out")
"""Settings of a run that the comparison sets."""
FOLDS = ("folds", "fold", "split_seed", "val_split", "holdout")
"""Settings that choose the evaluation images; the same for all methods."""
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
LABEL = r"[\w.+=-]+"


@dataclass(frozen=True)
class CompareSettings(Checked):
    """Settings of recursivemix compare.

    Args:
        task: Task that the runs are trained for: classification, detection, instance or segmentation.
        data: Data of the task, as in recursivemix fit or transfer (default: digits, or scenes of digits).
        dataset: Format of --data, as in recursivemix fit or transfer (default: auto).
        mixers: Comma-separated mixing methods to compare (default: none,cutmix,recursivemix; without
            --pretrain, detection and segmentation have none,recursivemix).
        methods: Settings of single methods by label, such as --methods.gentle '{mixer: recursivemix,
            mixer_options: {prob: 0.5}}'; a label that names a mixer needs no mixer. With --pretrain, each
            names the backbone it starts from: --methods.dense '{backbone: none, mixer: recursivemix}'.
        seeds: Number of seeds per method; intervals need three.
        first_seed: First seed; the others follow it.
        folds: Number of folds for cross-validation, if the data have no val or test split; classification
            only. Each seed evaluates on the next fold; after the last one come other folds.
        epochs: Passes over the training images (default: as --budget allows, else as in recursivemix fit
            or transfer).
        model: Network, as in recursivemix fit or transfer.
        settings: Settings of recursivemix fit or transfer for all runs, such as --settings.lr 0.05; those
            of Lightning's Trainer under trainer.
        pretrain: Compare backbones: train one with each of --mixers by these settings of recursivemix fit,
            such as --pretrain.model resnet18, then train --task on each of them.
        budget: Time for all runs, such as 2h or 45m; sets the number of epochs.
        baseline: Label of the method that the others are compared with (default: none, else the first).
        probes: Comma-separated probes to evaluate each checkpoint with, as in recursivemix evaluate;
            classification only.
        images: Number of test images for the probes that modify images; classification only.
        executor: local, or ray for a cluster of machines.
        jobs: Number of runs at the same time on this machine; they share its cores.
        address: Address of a running Ray cluster (default: start one on this machine).
        dry_run: Measure a few steps of each method, print the estimated time, and stop.
        out: Folder of the comparison; finished runs in it are kept.
        trust_config: Accept settings that name classes outside Lightning; they can run any code.
    """

    task: Task = "classification"
    data: Path | None = None
    dataset: str = "auto"
    mixers: str | None = None
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    first_seed: int = 0
    folds: int | None = None
    epochs: int | None = None
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] | None = None
    budget: str | None = None
    baseline: str | None = None
    probes: str = "all"
    images: int = 2000
    executor: Executor = "local"
    jobs: int = 1
    address: str | None = None
    dry_run: bool = False
    out: Path = Path("comparison")
    trust_config: bool = False

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(0, "first_seed")
        self.check_least(1, "seeds", "epochs", "images", "jobs")
        if self.folds is not None and self.is_dense:
            raise ValueError("--folds needs --task classification")
        if self.budget is not None:
            budget_seconds(self.budget)
            if self.given_epochs is not None:
                raise ValueError("--budget sets the number of epochs: leave --epochs or --budget out")
        if self.address is not None and self.executor != "ray":
            raise ValueError("--address is the address of a Ray cluster: add --executor ray")
        if self.pretrain is not None and self.task == "classification":
            raise ValueError("--pretrain needs --task detection, instance or segmentation")
        if not self.labels:
            raise ValueError("--mixers must name at least one method, got none")
        for label in self.labels:
            if not re.fullmatch(LABEL, label):
                raise ValueError(
                    f"--methods: a label names a folder and may have letters, digits and . + = - _, got "
                    f"{label!r}"
                )
        if self.baseline is not None and self.baseline not in self.labels:
            raise ValueError(f"--baseline must be one of {', '.join(self.labels)}, got {self.baseline!r}")

    @property
    def named_mixers(self) -> list[str]:
        """The mixers of ``--mixers``, in order."""
        default = (
            "none,recursivemix" if self.is_dense and not self.pretrains else "none,cutmix,recursivemix"
        )
        names = (default if self.mixers is None else self.mixers).split(",")
        return list(dict.fromkeys(name.strip() for name in names if name.strip()))

    @property
    def labels(self) -> list[str]:
        """The labels of all methods, in order."""
        return list(dict.fromkeys([*self.named_mixers, *self.methods]))

    @property
    def reference(self) -> str:
        """The label of the baseline."""
        return self.baseline or ("none" if "none" in self.labels else self.labels[0])

    @property
    def all_seeds(self) -> range:
        """The seeds of every method."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def is_dense(self) -> bool:
        """Whether the runs are of detection or segmentation."""
        return self.task != "classification"

    @property
    def pretrains(self) -> bool:
        """Whether the methods differ in the training of their backbones."""
        return self.pretrain is not None

    @property
    def given_epochs(self) -> int | None:
        """The epochs of ``--epochs`` or ``--settings.epochs``; None if neither is given."""
        epochs: int | None = self.settings.get("epochs") if self.epochs is None else self.epochs
        return epochs

    def method(self, label: str) -> dict[str, Any]:
        """Return the settings in which a method differs from the others.

        Without ``--pretrain`` they have its ``mixer``, with it they have its ``backbone``.
        """
        return {"backbone" if self.pretrains else "mixer": label} | self.methods.get(label, {})

    def run_settings(self, label: str, seed: int) -> dict[str, Any]:
        """Return the settings of one run as plain values, without ``out`` and a pretrained backbone.

        Runs of the same seed share everything but the method's settings: weights, order, split.
        """
        kind: Any = settings_class(self.task)
        model = self.model or kind.model
        common: dict[str, Any] = {} if model is None else {"model": model}
        common |= {"epochs": self.given_epochs or kind.epochs, "seed": seed}
        if self.data is not None:
            common["data"] = str(self.data)
            if not self.is_dense or self.dataset != "auto":
                common["dataset"] = self.dataset
        if self.folds is not None:
            before, fold = divmod(seed - self.first_seed, self.folds)
            common |= {"folds": self.folds, "fold": fold, "split_seed": self.first_seed + before}
        method = self.method(label)
        if self.pretrains:
            del method["backbone"]
        return undo_yaml_coercion(common | self.settings | method)

    def pretrain_settings(self, mixer: str, seed: int) -> dict[str, Any]:
        """Return the settings of the run that trains a backbone."""
        return undo_yaml_coercion(self.pretrain or {}) | {"mixer": mixer, "seed": seed}

    def check_methods(self) -> None:
        """Raise ValueError for settings that no run of the task can have."""
        from recursivemix.mixing import MIXERS

        if not self.trust_config:
            for name in ("settings", "methods", "pretrain"):
                check_classes(getattr(self, name) or {}, f"--{name}")
        fixed = (*FIXED, "backbone" if self.pretrains else "mixer")
        for name in self.settings:
            if name in fixed or (name in ("epochs", "model", "folds") and getattr(self, name) is not None):
                raise ValueError(f"--settings.{name} is set by the comparison: see --{name} or --mixers")
            if self.folds is not None and name in FOLDS:
                raise ValueError(f"--settings.{name} is set by --folds: leave it out")
        for label in self.labels:
            method = self.method(label)
            shared = FIXED if self.pretrains else (*FIXED, *FOLDS, "epochs", "model")
            for name in self.methods.get(label, {}):
                if name in shared:
                    raise ValueError(f"--methods.{label}: {name!r} must be the same for all methods")
            if self.pretrains:
                if method["backbone"] not in self.named_mixers:
                    raise ValueError(
                        f"--methods.{label} needs a backbone, one of {', '.join(self.named_mixers)}"
                    )
            elif method["mixer"] not in MIXERS:
                raise ValueError(
                    f"unknown mixer {method['mixer']!r}: choose from {', '.join(MIXERS)}, or give "
                    f"the label a mixer with --methods.{label} '{{mixer: NAME}}'"
                )
            self.standalone_run(label, self.first_seed)
        if self.pretrains:
            for name in ("seed", "out", "mixer"):
                if name in (self.pretrain or {}):
                    raise ValueError(f"--pretrain.{name} is set by the comparison: leave it out")
            for mixer in self.named_mixers:
                if mixer not in MIXERS:
                    raise ValueError(f"--mixers: unknown mixer {mixer!r}: choose from {', '.join(MIXERS)}")
                self.pretrain_run(mixer, self.first_seed)

    def pretrain_run(self, mixer: str, seed: int) -> RunSettings:
        """Return the validated settings of the run that trains a backbone."""
        with self.typed_as():
            return task_settings("classification", self.pretrain_settings(mixer, seed), "--pretrain")

    def standalone_run(self, label: str, seed: int, **others: Any) -> RunSettings:
        """Return the validated settings of one run, with a random backbone instead of a pretrained one.

        Raises:
            ValueError: a value that the task refuses.
        """
        settings = self.run_settings(label, seed) | others
        if self.pretrains:
            before: Any = self.pretrain_run(self.method(label)["backbone"], seed)
            settings |= {"backbone": "random", "model": before.model}
        with self.typed_as(label):
            return task_settings(self.task, settings, "--settings or --methods")

    @contextmanager
    def typed_as(self, label: str | None = None) -> Iterator[None]:
        """Write the flags of runs in a ValueError as options of the comparison: --lr as --settings.lr.

        Args:
            label: the method; None for a run that trains a backbone.
        """
        task: Task = "classification" if label is None else self.task
        defaults = {item.name: item.default for item in dataclasses.fields(settings_class(task))}
        method = {} if label is None else self.methods.get(label, {})
        unchanged = (
            ("mixer", "seed", "out") if label is None else (*FIXED, "mixer", "epochs", "model", "folds")
        )

        def flag(match: re.Match[str]) -> str:
            name = match[1].replace("-", "_")
            if name == "mixer" and match.string.startswith(" must be", match.end()):
                return f"mixer of the method {label}" if name in method else "--mixers"
            if name in unchanged or name not in (*defaults, "trainer"):
                return match[0]
            if name in method:
                return f"{name} of the method {label}"
            value = " true" if isinstance(defaults.get(name), bool) else ""
            return f"--{'pretrain' if label is None else 'settings'}.{name}{value}"

        try:
            yield
        except ValueError as error:
            raise ValueError(re.sub(r"(?<![\w-])--([a-z][a-z_-]*)", flag, str(error))) from error


@dataclass(frozen=True)
class BackboneSettings(CompareSettings):
    """Settings of recursivemix transfer compare, which is recursivemix compare with --pretrain.

    Args:
        task: Task that backbones are transferred to: detection, instance or segmentation.
        pretrain: Settings of recursivemix fit for all backbones, such as --pretrain.model resnet18.
    """

    task: Task = "detection"
    pretrain: dict[str, Any] = field(default_factory=dict)


def task_settings(task: Task, settings: dict[str, Any], options: str) -> RunSettings:
    """Return validated settings of a task from plain values.

    Raises:
        ValueError: an unknown name, or a value that the task refuses; names the ``options`` it came from.
    """
    values = {name: value for name, value in settings.items() if name != "trainer"}  # the run checks those
    known = {item.name for item in dataclasses.fields(settings_class(task))}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{options}: {task} has no setting {unknown[0]!r}")
    from jsonargparse import ArgumentError

    from recursivemix.training.options import make_settings, rephrased

    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    try:
        parsed = _parser(task).parse_object(plain)
    except ArgumentError as error:
        raise ValueError(rephrased(str(error))) from error
    return make_settings(settings_class(task), parsed)


@cache
def _parser(task: Task) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    from recursivemix.training.options import add_settings

    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser, settings_class(task))
    return parser


def budget_seconds(budget: str) -> float:
    """Convert a time such as 90s, 45m or 1.5h to seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", budget.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"--budget must be a time such as 2h, 45m or 90s, got {budget!r}")
    return float(match[1]) * UNITS[match[2]]
