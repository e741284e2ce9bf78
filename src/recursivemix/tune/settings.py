"""Settings of a search. The command line imports this module: no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recursivemix.compare.settings import CompareSettings, Executor, budget_seconds
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.checked import Checked
from recursivemix.training.trainer_classes import check_classes

CONTINUED = ("constant", "step")
"""Schedules whose learning rate in an epoch does not depend on the length of the run."""
DEFAULT_TRIALS = 27
FOUND, SAME, DEFAULT = "found", "none", "none-default"
"""Labels of the confirmation: the settings found, none with their lr and so on, none with the defaults."""
SET_BY_TUNE = {
    "data": "--data", "dataset": "--dataset", "model": "--model", "epochs": "--epochs", "seed": "--seed",
    "out": "--out", "mixer": "--mixer", "val_split": "--val-split", "holdout": "--val-split",
    "folds": "--val-split", "mixer_options": "--space", "mix_stop": "--space.mix_stop",
}  # fmt: skip
"""Settings of `fit` that the search sets, and the option for each."""


@dataclass(frozen=True)
class TuneSettings(Checked):
    """Settings of recursivemix tune.

    Args:
        data: Data set, as in recursivemix fit (default: the digits).
        dataset: Format of --data, as in recursivemix fit (default: auto).
        mixer: Mixing method whose settings are searched.
        model: Network, as in recursivemix fit.
        budget: Time for the search, such as 2h or 30m; the confirmation comes after it.
        trials: Number of settings to try (default: as --budget allows, else 27).
        epochs: Epochs of a full run (default: as --budget allows, else as in recursivemix fit).
        rungs: Number of lengths at which trials are compared.
        reduction: At each rung, one of this many trials goes on, with this many times the epochs.
        val_split: Share of each class of the training images to judge on; test images are not used.
        space: What to search: a number fixes a setting, two are a range, a list of more are choices, such
            as --space.lr '[0.02,0.2]' --space.omega 0.5. mix_stop is a share of the epochs.
        settings: Settings of recursivemix fit for all runs, such as --settings.batch_size 64; those of
            Lightning's Trainer under trainer.
        seed: Seed of the search and of all its runs.
        seeds: Number of fresh seeds of the confirmation; 0 leaves it out.
        executor: local, or ray for a cluster of machines.
        jobs: Number of runs at the same time on this machine; they share its cores.
        address: Address of a running Ray cluster (default: start one on this machine).
        out: Folder of the search; the same command resumes it.
        trust_config: Accept settings that name classes outside Lightning; they can run any code.
    """

    data: Path | None = None
    dataset: str = "auto"
    mixer: str = "recursivemix"
    model: str | None = None
    budget: str | None = None
    trials: int | None = None
    epochs: int | None = None
    rungs: int = 3
    reduction: int = 3
    val_split: float = 0.2
    space: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    seeds: int = 3
    executor: Executor = "local"
    jobs: int = 1
    address: str | None = None
    out: Path = Path("tuned")
    trust_config: bool = False

    def check(self) -> None:
        """Raise ValueError for values out of range, or that exclude each other."""
        self.check_least(0, "seed", "seeds")
        self.check_least(1, "trials", "epochs", "rungs", "jobs")
        self.check_least(2, "reduction")
        if self.budget is not None:
            budget_seconds(self.budget)
        if not 0 < self.val_split < 1:
            raise ValueError(
                f"--val-split is a share of each class and must be in (0, 1), got {self.val_split}"
            )
        if self.address is not None and self.executor != "ray":
            raise ValueError("--address is the address of a Ray cluster: add --executor ray")
        if not self.trust_config:
            check_classes(self.settings, "--settings")
        for name in self.settings:
            if name in SET_BY_TUNE:
                raise ValueError(f"--settings.{name} is set by the search: use {SET_BY_TUNE[name]}")
        for name in self.space:
            if name in self.settings:
                raise ValueError(f"{name} is in --space and in --settings: leave one of them out")

    @property
    def most_trials(self) -> int | None:
        """The number of trials at which the search ends; None if the budget alone ends it."""
        return DEFAULT_TRIALS if self.trials is None and self.budget is None else self.trials

    @property
    def continues(self) -> bool:
        """Whether a rung continues the runs of the one before, instead of training anew.

        Averaged last epochs are no beginning of a longer run, and a run that stopped early has ended.
        """
        ends = any((self.settings | self.space).get(name) for name in ("average_last", "early_stop"))
        return self.default_of("schedule") in CONTINUED and not ends

    def default_of(self, name: str) -> Any:
        """Return the value of a setting of `fit` that no trial changes."""
        return self.settings.get(name, getattr(ClassificationSettings, name, None))

    def comparison(
        self, methods: dict[str, dict[str, Any]], epochs: int, seeds: int = 1, first_seed: int | None = None
    ) -> CompareSettings:
        """Return runs of these methods as a comparison, evaluated on held-out training images."""
        return CompareSettings(
            data=self.data,
            dataset=self.dataset,
            mixers="",
            methods=methods,
            seeds=seeds,
            first_seed=self.seed if first_seed is None else first_seed,
            epochs=epochs,
            model=self.model,
            settings=self.settings | {"holdout": self.val_split},
            baseline=FOUND if FOUND in methods else None,
            probes="accuracy",
            executor=self.executor,
            jobs=self.jobs,
            address=self.address,
            out=self.out / "confirmation",
            trust_config=self.trust_config,
        )
