"""Methods times seeds: what is to be run, in which folder, with which settings."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from recursivemix.data.images import ImageData
from recursivemix.data.names import Source
from recursivemix.mixing import MIXERS, create_mixer
from recursivemix.models.create import create_model
from recursivemix.tasks.classification import open_images
from recursivemix.tasks.settings import ClassificationSettings, undo_yaml_coercion

Executor = Literal["local", "ray"]
FIXED = ("data", "dataset", "model", "epochs", "seed", "out", "mixer")
"""Settings of a run that the comparison itself decides."""
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        data: Folder of images or name of a data set, as in recursivemix fit. Without it, the digits.
        dataset: What --data is: auto (look), digits, folder, cifar10, cifar100 or hf.
        mixers: Methods to compare, such as none,cutmix,recursivemix.
        methods: The settings of single methods by their label, as in
            --methods.gentle '{mixer: recursivemix, mixer_options: {prob: 0.5}}'; a label that is a method's
            name needs no mixer. Easier in a YAML file.
        seeds: How many seeds each method is run with, counted from 0.
        epochs: Passes over the training images. Default: 30, or what --budget allows.
        model: The network, as in recursivemix fit.
        settings: Further settings of recursivemix fit, for all methods alike, such as --settings.lr 0.05;
            those of Lightning's Trainer under trainer.
        budget: Time for everything, such as 2h or 45m; decides the number of epochs. Leave --epochs out.
        baseline: The label that the others are compared with. Default: none, or else the first.
        images: How many test images corruptions, occlusion, scale and localisation are measured on.
        executor: local, or ray for a grid that outgrows one machine.
        jobs: Runs at the same time; they share the processor's cores.
        address: Of a Ray cluster that is up. Default: Ray starts one on this machine.
        dry_run: Print the grid and how long it will take, by a few measured steps of each method.
        out: Folder of the comparison. Where there is one already, its finished runs are kept.
    """

    data: Path | None = None
    dataset: Source = "auto"
    mixers: str = "none,cutmix,recursivemix"
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    epochs: int | None = None
    model: str = "resnet20"
    settings: dict[str, Any] = field(default_factory=dict)
    budget: str | None = None
    baseline: str | None = None
    images: int = 2000
    executor: Executor = "local"
    jobs: int = 1
    address: str | None = None
    dry_run: bool = False
    out: Path = Path("comparison")

    def __post_init__(self) -> None:
        for name in ("seeds", "jobs", "images"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1, got {self.epochs}")
        if self.budget is not None and self.epochs is not None:
            raise ValueError("--budget decides the number of epochs: leave --epochs or --budget out")
        if self.budget is not None:
            budget_seconds(self.budget)
        if self.address is not None and self.executor != "ray":
            raise ValueError("--address is that of a Ray cluster: add --executor ray")
        if self.baseline is not None and self.baseline not in self.labels:
            raise ValueError(f"--baseline must be one of {', '.join(self.labels)}, got {self.baseline!r}")
        fields = {item.name for item in dataclasses.fields(ClassificationSettings)}
        for name in self.settings:
            if name in FIXED:
                raise ValueError(
                    f"--settings.{name} is for the comparison to decide: see --{name} or --mixers"
                )
            if name not in fields | {"trainer"}:
                raise ValueError(f"--settings.{name}: recursivemix fit has no such setting")
        for label in self.labels:
            if not re.fullmatch(r"[\w.+=-]+", label):
                raise ValueError(
                    f"a method's label names its folder: letters, digits and . + = - _ alone, got {label!r}"
                )
            method = self.method(label)
            for name in method:
                if name not in fields or (name in FIXED and name != "mixer"):
                    raise ValueError(
                        f"--methods.{label}: {name!r} is no setting of recursivemix fit, or not its own"
                    )
            if method["mixer"] not in MIXERS:
                raise ValueError(
                    f"unknown method {method['mixer']!r}; there are {', '.join(MIXERS)}; a label of your "
                    f"own needs --methods.{label} '{{mixer: NAME}}'"
                )
            self.run_config(label, 0)  # whose own door checks the values

    @property
    def labels(self) -> list[str]:
        """The methods in the order they were named; ``methods`` may add to ``mixers``."""
        named = [label.strip() for label in self.mixers.split(",") if label.strip()]
        labels = list(dict.fromkeys([*named, *self.methods]))
        if not labels:
            raise ValueError("--mixers names no method")
        return labels

    @property
    def reference(self) -> str:
        """The label that the others are compared with."""
        if self.baseline is not None:
            return self.baseline
        return "none" if "none" in self.labels else self.labels[0]

    def method(self, label: str) -> dict[str, Any]:
        """The settings that are a method's own, with its ``mixer``."""
        return {"mixer": label} | self.methods.get(label, {})

    def run_settings(self, label: str, seed: int) -> dict[str, Any]:
        """The settings of one run, for `ClassificationSettings` or a YAML file; ``out`` left out.

        Everything but the method's own is the same for one seed: weights, order, split.
        """
        own = {"model": self.model, "epochs": self.epochs or 30, "seed": seed}
        if self.data is not None:
            own |= {"data": str(self.data), "dataset": self.dataset}
        return undo_yaml_coercion(own | self.settings | self.method(label))

    def run_config(self, label: str, seed: int, **others: Any) -> ClassificationSettings:
        """The same as a `ClassificationSettings`; raises ValueError for values that `fit` refuses."""
        settings = self.run_settings(label, seed) | others
        settings.pop("trainer", None)  # Lightning's own, which a run checks
        check_types(settings)
        if "data" in settings:
            settings["data"] = Path(settings["data"])
        return ClassificationSettings(**settings)


@dataclass(frozen=True)
class Job:
    """One run of the grid; plain values, so that it can be sent to another machine."""

    label: str
    seed: int
    settings: dict[str, Any]
    """Of ``recursivemix fit``, without ``out``."""
    images: int
    """Of `evaluate_checkpoint`."""

    @property
    def name(self) -> str:
        """The run's folder below ``runs``."""
        return f"{self.label}-seed{self.seed}"


def jobs_of(config: CompareConfig) -> list[Job]:
    """Every run; all methods of a seed before the next seed, so that what is finished can be compared."""
    return [
        Job(label, seed, config.run_settings(label, seed), config.images)
        for seed in range(config.seeds)
        for label in config.labels
    ]


def open_grid(config: CompareConfig) -> ImageData:
    """The data of seed 0; every method is made once, so that a wrong option ends here and not in a run.

    Raises:
        ValueError: data, a model or an option that can't be used.
    """
    data = open_images(config.run_config(config.labels[0], 0))
    for label in config.labels:
        method = config.run_config(label, 0)
        network = create_model(method.model, len(data.classes), data.image_size)
        try:
            create_mixer(method.mixer, len(data.classes), network, **method.mixer_options)
        except ValueError as error:
            raise ValueError(f"method {label!r}: {error}") from error
    return data


def check_types(settings: dict[str, Any]) -> None:
    """Raise ValueError for a value of another type than a setting of `ClassificationSettings` has."""
    plain = {name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}
    try:
        _parser().parse_object(plain)
    except ArgumentError as error:
        raise ValueError(f"--settings or --methods: {' '.join(str(error).split())}") from error


@cache
def _parser() -> ArgumentParser:
    """Of the settings of a run."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ClassificationSettings, as_group=False)
    return parser


def budget_seconds(budget: str) -> float:
    """Seconds of a time such as 90s, 45m or 1.5h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", budget.strip())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"--budget is a time such as 2h, 45m or 90s, got {budget!r}")
    return float(found[1]) * UNITS[found[2]]
