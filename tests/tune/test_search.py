"""Successive halving with runs that only pretend: which trials go on, and what a stop leaves behind."""

import json
import shutil

import pytest
import yaml

from recursivemix.compare.execute import LAST
from recursivemix.compare.pace import Pace
from recursivemix.compare.processes import GridStoppedError, RunError
from recursivemix.tune import search
from recursivemix.tune.search import Rungs, Search, drawn, open_study, rungs_of, trial_records, winner_of
from recursivemix.tune.settings import TuneSettings
from recursivemix.tune.space import space_of

pytest.importorskip("optuna", reason="Optuna is not installed")


def score_of(settings: dict) -> float:
    """Best at lr 0.1 and prob 0.7; longer runs score higher."""
    options = settings["mixer_options"]
    return 50 + settings["epochs"] - 20 * abs(settings["lr"] - 0.1) - 10 * abs(options["prob"] - 0.7)


class Pretender:
    """Runs that take no time. ``stop_after`` runs, or with ``crash`` at once, the process is stopped."""

    def __init__(self, stop_after=None, fail=lambda settings: False, score=score_of):
        self.made = []
        self.score = score
        self.stop_after = stop_after
        self.fail = fail

    def __call__(self, jobs, out, executor, address, parallel, done):
        problems = {}
        for job in jobs:
            if self.stop_after is not None and len(self.made) >= self.stop_after:
                raise GridStoppedError("stopped")
            (run,) = job.runs
            self.made.append(run.name)
            folder = out / run.folder
            (folder / LAST.parent).mkdir(parents=True, exist_ok=True)
            (folder / LAST).write_text("x")
            problem = None
            if self.fail(run.settings):
                problem = problems[job.name] = f"{job.name} ended with exit code 1: the loss is nan"
            else:
                (folder / "record.json").write_text(json.dumps({"score_last": self.score(run.settings)}))
                (folder / "config.yaml").write_text(yaml.safe_dump(run.settings))
            done(job, problem)
        return problems


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A function that makes a search in a folder with pretended runs."""

    def make(runs=None, folder="out", full=9, **options):
        runs = runs or Pretender()
        monkeypatch.setattr(search, "run_jobs", runs)
        settings = TuneSettings(out=tmp_path / folder, **options)
        settings.out.mkdir(exist_ok=True)
        lines = []
        study = open_study(settings.out)
        made = Search(settings, space_of(settings), rungs_of(full, settings), study, lines.append)
        return made, runs, lines

    return make


@pytest.mark.parametrize("trusted", [False, True])
def test_trials_are_trusted_as_the_search_is(trusted, pretend):
    made, *_ = pretend(trust_config=trusted)
    command = made.job(0, {"prob": 0.5}, 3).runs[0].command
    assert command == (("fit", "--trust-config") if trusted else ("fit",))


def test_rungs_are_fractions_of_the_full_length():
    settings = TuneSettings(trials=9)
    assert rungs_of(27, settings) == Rungs((3, 9, 27), 3)
    assert rungs_of(27, settings).size == 9
    assert rungs_of(4, settings).epochs == (1, 4)  # none is shorter than an epoch
    assert rungs_of(1, settings) == Rungs((1,), 3)
    pace = Pace("found", epoch=2.0, once=10.0)
    assert rungs_of(9, settings).seconds(pace, 1, continues=False) == 13 * 10 + 2 * 27
    assert rungs_of(9, settings).seconds(pace, 1, continues=True) == 13 * 10 + 2 * (9 + 3 * 2 + 6)
    assert rungs_of(9, settings).seconds(pace, 2, continues=False) == 5 * 12 + 2 * 16 + 28


def test_the_best_third_goes_on(pretend):
    made, runs, lines = pretend(trials=20)
    made.run()
    trials = trial_records(made.study)
    assert len(trials) == 20
    for first, size in ((0, 9), (9, 9), (18, 2)):
        members = trials[first : first + size]
        for shorter, longer in (("1", "3"), ("3", "9")):
            ranked = sorted(
                (t for t in members if shorter in t["scores"]), key=lambda t: -t["scores"][shorter]
            )
            expected = {t["number"] for t in ranked[: max(1, len(ranked) // 3)]}
            assert {t["number"] for t in members if longer in t["scores"]} == expected
        assert sum(t["state"] == "complete" for t in members) == 1
        assert sum(t["state"] == "pruned" for t in members) == size - 1
    best = max((t for t in trials if "9" in t["scores"]), key=lambda t: t["scores"]["9"])
    assert winner_of(made.study).number == best["number"]
    assert len(runs.made) == len(set(runs.made)) == (9 + 3 + 1) * 2 + 2 + 1 + 1
    defaults = {
        "prob": 1.0,
        "max_area": 0.5,
        "omega": 0.5,
        "mix_stop": 1.0,
        "lr": 0.1,
        "weight_decay": 5e-4,
    }
    assert trials[0]["params"] == defaults
    assert f"trial 0, 1 epoch: {trials[0]['scores']['1']:.2f} %" in lines


def test_checkpoints_of_stopped_trials_are_deleted(pretend):
    made, _, _ = pretend(trials=9)
    made.run()
    kept = {path.parents[1].name.rsplit("-", 2)[0] for path in made.settings.out.glob(f"trials/*/{LAST}")}
    assert kept == {f"trial-{winner_of(made.study).number:03d}"}


@pytest.mark.parametrize("stop", [0, 4, 10, 13])
def test_a_stopped_search_ends_like_one_that_was_not(pretend, stop):
    whole, _, _ = pretend(trials=18, folder="whole")
    whole.run()
    stopped, before, _ = pretend(Pretender(stop_after=stop), trials=18)
    with pytest.raises(GridStoppedError):
        stopped.run()
    resumed, after, _ = pretend(trials=18)
    resumed.run()
    assert trial_records(resumed.study) == trial_records(whole.study)
    assert len(before.made + after.made) == 26
    assert not set(before.made) & set(after.made)


def test_a_kill_between_the_record_and_the_journal_counts_nothing_twice(pretend, monkeypatch):
    whole, _, _ = pretend(trials=9, folder="whole")
    whole.run()
    killed, _, _ = pretend(trials=9)
    monkeypatch.setattr(Search, "keep_score", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    monkeypatch.undo()
    resumed, _, _ = pretend(trials=9)
    monkeypatch.setattr(search, "run_jobs", Pretender())
    resumed.run()
    assert trial_records(resumed.study) == trial_records(whole.study)


def test_a_failed_run_ends_its_trial_alone(pretend):
    made, runs, lines = pretend(Pretender(fail=lambda settings: settings["lr"] > 0.2), trials=9)
    made.run()
    trials = trial_records(made.study)
    failed = [t for t in trials if t["params"]["lr"] > 0.2]
    assert failed
    for trial in failed:
        assert (trial["state"], trial["scores"]) == ("fail", {})
    assert any("the loss is nan" in line for line in lines)
    again, runs, _ = pretend(trials=9)
    again.run()
    assert runs.made == []


def test_if_all_runs_fail_the_search_stops_and_makes_them_again(pretend):
    made, _, _ = pretend(Pretender(fail=lambda settings: True), trials=9)
    with pytest.raises(RunError, match="all runs failed: trial-000-1-epochs ended with exit code 1"):
        made.run()
    assert winner_of(made.study) is None
    again, runs, _ = pretend(trials=9)
    again.run()
    assert len(runs.made) == 13


class SlowRuns(Pretender):
    """Runs that take ten seconds of the search's clock."""

    def __call__(self, jobs, out, executor, address, parallel, done):
        def timed(job, problem):
            self.clock._start -= 10
            done(job, problem)

        return super().__call__(jobs, out, executor, address, parallel, timed)


def test_the_budget_holds_over_several_processes(pretend):
    runs = SlowRuns()
    made, _, lines = pretend(runs, budget="95s")
    runs.clock = made.clock
    made.run()
    assert len(runs.made) == 10  # nine of the first rung and one of the second
    assert lines[-1] == "the time is used up: --budget 95s"
    winner = winner_of(made.study)
    assert list(winner.intermediate_values) == [1, 3]
    again, later, _ = pretend(budget="95s")
    again.run()
    assert later.made == []
    more = SlowRuns()
    longer, _, _ = pretend(more, budget="300s")
    more.clock = longer.clock
    longer.run()
    assert not set(runs.made) & set(more.made)
    assert len(drawn(longer.study)) == 18  # a third bracket would take 130 of the last 40 seconds
    assert sum(t["state"] == "complete" for t in trial_records(longer.study)) == 2


def test_runs_of_a_constant_schedule_continue_from_their_checkpoint(pretend):
    made, runs, _ = pretend(trials=9, settings={"schedule": "constant"})
    continued = []

    def check(jobs, out, *others):
        for job in jobs:
            (run,) = job.runs
            if run.settings["epochs"] > 1:
                config = yaml.safe_load((out / run.folder / "config.yaml").read_text())
                assert (out / run.folder / LAST).is_file()
                assert config["epochs"] == run.settings["epochs"]
                assert config["warmup_epochs"] == run.settings["warmup_epochs"] == pytest.approx(0.45)
                assert config["out"] == str(out / run.folder)
                continued.append(run.name)
        return runs(jobs, out, *others)

    search.run_jobs = check
    made.run()
    assert len(continued) == 4
    shutil.rmtree(made.settings.out / "trials")  # as on machines that do not share the folder
    made.continue_run(made.job(0, winner_of(made.study).params, 9).runs[0], 0, 9)
    assert not list(made.settings.out.glob("trials/*"))
