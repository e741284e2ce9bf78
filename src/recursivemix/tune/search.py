"""Successive halving over runs of ``recursivemix fit``.

Trials come in brackets. All trials of a bracket are trained for the epochs of the first rung, the best of
them for those of the next rung, and so on. A bracket is complete before the next one is drawn, so the
sampler knows its scores, and the trials do not depend on the number of runs at the same time.

How the learning-rate schedule and the rungs go together:

- cosine and poly reach 0 at the end of a run, so a run of 3 epochs is no beginning of one of 9. Each rung
  trains a complete schedule of its length from the start. Every score is that of a finished network, with
  the learning rate decayed and ``mix_stop`` passed: in the middle of a longer schedule, scores would favour
  low learning rates and weak mixing, which are ahead early and behind at the end. With three rungs and
  a reduction of 3 this costs 29 % more epochs than continuing would.
- constant and step do not depend on the length of the run. All runs share the schedule of the last rung,
  are judged at the end of a rung, and continue from their checkpoint exactly as if they had never stopped.

Optuna's journal in the folder holds the values of every trial, its score at each rung and its state; which
trials go on is computed from the scores. A search that was stopped at any point continues from there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recursivemix.compare.compare import run_jobs
from recursivemix.compare.execute import LAST, RECORD
from recursivemix.compare.grid import Job, Run, trust_words
from recursivemix.compare.pace import Pace
from recursivemix.compare.processes import RunError
from recursivemix.compare.settings import budget_seconds
from recursivemix.data.atomic_write import write_text
from recursivemix.data.printable import counted
from recursivemix.training.plain_file import read_json, read_yaml

from .settings import FOUND, TuneSettings
from .space import Params, Range, default_params, method_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

JOURNAL = "study.journal"
SECONDS = "seconds"
"""Name of the study's attribute that holds the time of the search so far."""


class BudgetSpentError(Exception):
    """The time for the search is over."""


class BudgetClock:
    """Time of a search over all of its processes, kept in the study.

    Args:
        study: holds the time of earlier processes.
        budget: seconds; None without a limit.
    """

    def __init__(self, study: Study, budget: float | None) -> None:
        self.study = study
        self.budget = budget
        self._start = time.monotonic() - float(study.user_attrs.get(SECONDS, 0.0))

    @property
    def seconds(self) -> float:
        """Time of the search so far."""
        return time.monotonic() - self._start

    def save(self) -> None:
        """Write the time into the study."""
        self.study.set_user_attr(SECONDS, round(self.seconds, 2))

    def check(self, needed: float = 0.0) -> None:
        """Raise BudgetSpentError if fewer than ``needed`` seconds are left."""
        if self.budget is not None and self.seconds + needed >= self.budget:
            raise BudgetSpentError


@dataclass(frozen=True)
class Rungs:
    """Lengths of the runs of a bracket."""

    epochs: tuple[int, ...]
    """Ascending."""
    reduction: int
    """One of this many trials goes on to the next rung."""

    @property
    def size(self) -> int:
        """Number of trials in a bracket, so that one is left in the last rung."""
        return int(self.reduction ** (len(self.epochs) - 1))

    @property
    def full(self) -> int:
        """Epochs of the last rung."""
        return self.epochs[-1]

    def seconds(self, pace: Pace, jobs: int, continues: bool) -> float:
        """Return the time of a bracket with ``jobs`` runs at a time."""
        total, before = 0.0, 0
        for rung, epochs in enumerate(self.epochs):
            runs = self.size // self.reduction**rung
            total += ceil(runs / jobs) * (pace.once + (epochs - before) * pace.epoch)
            before = epochs if continues else 0
        return total


def rungs_of(full: int, settings: TuneSettings) -> Rungs:
    """Return the rungs below ``full`` epochs; fewer than asked for if they would be under one epoch."""
    lengths = {max(1, round(full / settings.reduction**rung)) for rung in range(settings.rungs)}
    return Rungs(tuple(sorted(lengths)), settings.reduction)


def open_study(out: Path) -> Study:
    """Create the study in a folder, or open it again."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    return optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", load_if_exists=True
    )


def drawn(study: Study) -> list[FrozenTrial]:
    """Return all trials whose values are drawn, in order."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]


class Search:
    """A search in a folder.

    Args:
        settings: of the search.
        space: searched and fixed settings.
        rungs: lengths of the runs.
        study: of the folder.
        say: called with a line for each rung and each run that ends.
    """

    def __init__(
        self,
        settings: TuneSettings,
        space: dict[str, Range],
        rungs: Rungs,
        study: Study,
        say: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.space = space
        self.rungs = rungs
        self.study = study
        self.say = say
        budget = None if settings.budget is None else budget_seconds(settings.budget)
        self.clock = BudgetClock(study, budget)

    def run(self) -> None:
        """Make brackets until the trials or the time are used up.

        Raises:
            GridStoppedError: Ctrl-C or SIGTERM; the same search continues.
            RunError: all runs of a rung failed; the same search makes them again.
        """
        most = self.settings.most_trials
        try:
            for bracket in count():
                first = bracket * self.rungs.size
                size = self.rungs.size if most is None else min(self.rungs.size, most - first)
                if size < 1:
                    return
                if first >= len(drawn(self.study)):  # begin a bracket only if it fits
                    self.clock.check(self.clock.seconds / bracket if bracket else 0.0)
                self.run_bracket(first, size)
        except BudgetSpentError:
            self.say(f"the time is used up: --budget {self.settings.budget}")
        finally:
            self.clock.save()

    def run_bracket(self, first: int, size: int) -> None:
        """Draw the trials of a bracket that are missing, and finish all of its rungs."""
        for number in range(len(drawn(self.study)), first + size):
            self.draw(number)
        numbers = list(range(first, first + size))
        for epochs in self.rungs.epochs:
            self.run_rung(numbers, epochs)
            trials = drawn(self.study)
            scored = [n for n in numbers if epochs in trials[n].intermediate_values]
            scored.sort(key=lambda n: (-trials[n].intermediate_values[epochs], n))
            kept = scored[: max(1, len(scored) // self.rungs.reduction)]
            for n in scored:
                if epochs == self.rungs.full:
                    self.end(n, trials[n].intermediate_values[epochs])
                elif n not in kept:
                    self.end(n)
            numbers = sorted(kept)

    def draw(self, number: int) -> None:
        """Draw the values of a trial from its own seed; the first trial has the defaults."""
        from optuna.samplers import TPESampler

        self.study.sampler = TPESampler(seed=self.settings.seed * 100_003 + number)
        if number == 0 and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(default_params(self.settings, self.space))
        self.study.ask({name: values.distribution() for name, values in self.space.items()})

    def run_rung(self, numbers: Sequence[int], epochs: int) -> None:
        """Make the runs of a rung that have no score yet, and keep their scores."""
        from optuna.trial import TrialState

        trials = drawn(self.study)
        jobs = {
            n: self.job(n, trials[n].params, epochs)
            for n in numbers
            if trials[n].state == TrialState.RUNNING and epochs not in trials[n].intermediate_values
        }
        if not jobs:
            return
        self.clock.check()
        length, number_of = counted(epochs, "epoch"), {job.name: n for n, job in jobs.items()}
        self.say(f"{length}: trials {', '.join(map(str, jobs))}")
        if self.settings.continues:
            for n, job in jobs.items():
                self.continue_run(job.runs[0], n, epochs)

        def done(job: Job, problem: str | None) -> None:
            number = number_of[job.name]
            if problem is None:
                score = self.keep_score(job.runs[0], number, epochs)
                self.say(f"trial {number}, {length}: {score:.2f} %")
            else:
                self.say(problem)
            self.clock.save()
            self.clock.check()

        how = (self.settings.executor, self.settings.address, self.settings.jobs)
        problems = run_jobs([*jobs.values()], self.settings.out, *how, done)
        if problems and not any(epochs in drawn(self.study)[n].intermediate_values for n in numbers):
            raise RunError(f"all runs failed: {next(iter(problems.values()))}")
        for name in problems:
            self.end(number_of[name], failed=True)

    def job(self, number: int, params: Params, epochs: int) -> Job:
        """Return the run of a trial at a rung."""
        method = method_of(self.settings, params, epochs, self.rungs.full)
        comparison, seed = self.settings.comparison({FOUND: method}, epochs), self.settings.seed
        folder, command = f"trials/trial-{number:03d}-{epochs}-epochs", ("fit", *trust_words(comparison))
        settings = comparison.run_settings(FOUND, seed)
        return Job((Run(folder, command, settings, seed, f"trial-{number:03d}"),))

    def continue_run(self, run: Run, number: int, epochs: int) -> None:
        """Let a run start from the checkpoint of the rung before, by a copy with more epochs."""
        before = [length for length in self.rungs.epochs if length < epochs]
        if not before or (self.settings.out / run.folder / LAST).is_file():
            return
        name = f"trials/trial-{number:03d}-{before[-1]}-epochs"
        earlier, folder = self.settings.out / name, self.settings.out / run.folder
        if not (earlier / LAST).is_file():
            return  # made on a machine that does not share the folder: trained from the start
        part = folder.with_name(f".{folder.name}.part")
        for path in (part, folder):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(earlier / LAST.parent, part / LAST.parent)
        config = read_yaml(earlier / "config.yaml")
        write_text(
            part / "config.yaml",
            yaml.safe_dump(config | {"epochs": epochs, "out": str(folder)}, sort_keys=False),
        )
        part.rename(folder)

    def keep_score(self, run: Run, number: int, epochs: int) -> float:
        """Write the score of a finished run into the study."""
        from optuna.trial import Trial

        record = read_json(self.settings.out / run.folder / RECORD)
        if record["score_last"] is None:
            raise RunError(f"{run.folder} has no score: nothing is annotated in its evaluation images")
        score = float(record["score_last"])
        Trial(self.study, drawn(self.study)[number]._trial_id).report(score, epochs)
        return score

    def end(self, number: int, score: float | None = None, failed: bool = False) -> None:
        """Set the state of a trial; delete the checkpoints of one that does not go on."""
        from optuna.trial import TrialState

        state = TrialState.COMPLETE if score is not None else TrialState.PRUNED
        if failed:
            state = TrialState.FAIL
        if not drawn(self.study)[number].state.is_finished():
            self.study.tell(number, score, state=state)
        if score is None and not failed:
            for folder in self.settings.out.glob(f"trials/trial-{number:03d}-*/{LAST.parent}"):
                shutil.rmtree(folder, ignore_errors=True)


def winner_of(study: Study) -> FrozenTrial | None:
    """Return the trial with the highest score at the longest rung that any trial reached."""
    scored = [trial for trial in drawn(study) if trial.intermediate_values]
    if not scored:
        return None
    longest = max(max(trial.intermediate_values) for trial in scored)
    reached = [trial for trial in scored if longest in trial.intermediate_values]
    return max(reached, key=lambda trial: (trial.intermediate_values[longest], -trial.number))


def trial_records(study: Study) -> list[dict[str, Any]]:
    """Return all trials as plain values."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "params": trial.params,
            "scores": {str(epochs): score for epochs, score in sorted(trial.intermediate_values.items())},
        }
        for trial in drawn(study)
    ]
