"""From the search to best.yaml, record and page; with runs that only pretend, and with a few real ones."""

import dataclasses
import json
import re
import shutil
from math import ceil
from pathlib import Path

import pytest
import yaml
from test_search import Pretender

from recursivemix.cli import main
from recursivemix.cli.dispatch import parse
from recursivemix.compare.execute import CLI, LAST, RECORD, run_job
from recursivemix.compare.grid import Job
from recursivemix.compare.pace import Pace
from recursivemix.compare.processes import Processes
from recursivemix.evaluation.evaluate import evaluate_checkpoint
from recursivemix.models.checkpoint_file import read_checkpoint
from recursivemix.training.folder_lock import locked_folder
from recursivemix.tune import search, tune
from recursivemix.tune.confirmation import differences, methods_of
from recursivemix.tune.search import Rungs, Search, rungs_of
from recursivemix.tune.settings import TuneSettings
from recursivemix.tune.space import space_of

pytest.importorskip("optuna", reason="Optuna is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def pair(method: str, mean: float, half: float, p: float) -> dict:
    """A difference of a baseline to the settings found, as a comparison has it."""
    return {
        "metric": "acc1_last", "method": method, "n": 3, "mean": mean, "low": mean - half,
        "high": mean + half, "p": p, "p_corrected": p, "uncertainty": "seeds", "images": None,
        "seeds_needed": None, "differences": [mean - half, mean, mean + half],
    }  # fmt: skip


def comparison(*pairs: dict) -> dict:
    """What the search reads of ``comparison.json``."""
    return {
        "pairs": list(pairs), "score": "acc1_last", "seeds": [1, 2, 3], "answer": "All is said.",
        "metrics": {"acc1_last": {"name": "Accuracy, last epoch"}}, "task": "classification",
        "data": {"name": "digits", "train_images": 500}, "model": "resnet20", "epochs": 9,
    }  # fmt: skip


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A function that searches with pretended runs, and confirms with these pairs."""

    def make(*pairs, runs=None, **options):
        grids = []

        def compare(settings, say):
            grids.append(settings)
            return comparison(*pairs), {}

        monkeypatch.setattr(search, "run_jobs", runs or Pretender())
        monkeypatch.setattr(tune, "compare", compare)
        monkeypatch.setattr(tune, "check_grid", lambda settings: settings.check_methods())
        settings = TuneSettings(out=tmp_path / "out", **({"trials": 9, "epochs": 9} | options))
        return tune.tune(settings, lambda line: None), grids

    return make


BETTER = pair("none", -1.5, 0.5, 0.01), pair("none-default", -1.2, 0.4, 0.02)


def test_the_winner_is_compared_with_none_on_fresh_seeds(pretend, tmp_path):
    record, (grid,) = pretend(*BETTER)
    winner = record["trials"][record["winner"]]["params"]
    assert list(grid.all_seeds) == [1, 2, 3]
    assert (grid.labels, grid.reference) == (["found", "none", "none-default"], "found")
    found, same, default = (grid.run_settings(label, 1) for label in grid.labels)
    assert found["mixer_options"] == {name: winner[name] for name in ("prob", "max_area", "omega")}
    assert found["lr"] == same["lr"] == winner["lr"]
    assert found["weight_decay"] == same["weight_decay"] == winner["weight_decay"]
    assert same["mixer"] == default["mixer"] == "none"
    assert not {"lr", "weight_decay", "mix_stop", "mixer_options"} & default.keys()
    assert {run["epochs"] for run in (found, same, default)} == {9}
    assert {run["holdout"] for run in (found, same, default)} == {0.2}
    assert grid.out == tmp_path / "out" / "confirmation" / f"trial-{record['winner']:03d}"
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == record


HAS = "recursivemix with the settings found has a higher accuracy than none on digits (500 training images"
NOT_SHOWN = HAS.replace("has a", "is not shown to have a")


@pytest.mark.parametrize(
    ("pairs", "start", "conclusions"),
    [
        (BETTER, HAS, ["higher", "higher"]),
        ((BETTER[0], pair("none-default", -1.2, 1.4, 0.2)), NOT_SHOWN, ["higher", "not shown"]),
        ((pair("none", -1.5, 0.5, 0.06), BETTER[1]), NOT_SHOWN, ["not shown", "higher"]),
        (
            (pair("none", 1.5, 0.5, 0.01), pair("none-default", 1.2, 0.4, 0.02)),
            NOT_SHOWN,
            ["lower", "lower"],
        ),
        ((), "The settings found are not confirmed on digits", []),
    ],
)
def test_better_is_said_only_if_both_comparisons_show_it(pretend, tmp_path, pairs, start, conclusions):
    record, _ = pretend(*pairs)
    assert record["answer"].startswith(start)
    assert re.findall(r"corrected p [\d.]+, ([\w ]+)\)", record["answer"]) == conclusions
    assert record["answer"] in (tmp_path / "out" / "page.html").read_text()
    if pairs:
        assert f"{-pairs[0]['mean']:+.2f} points from none with the same other settings" in record["answer"]


def test_differences_are_those_of_the_settings_found():
    one, other = differences(comparison(pair("none", -1.5, 0.5, 0.01), pair("none", 2.0, 0.5, 0.01)))
    assert (one["mean"], one["low"], one["high"]) == (1.5, 1.0, 2.0)
    assert one["differences"] == [2.0, 1.5, 1.0]
    assert (other["mean"], other["low"], other["high"]) == (-2.0, -2.5, -1.5)


def test_without_seeds_nothing_is_called_better(pretend):
    record, grids = pretend(seeds=0)
    assert grids == []
    assert record["confirmation"] is None
    assert record["answer"].startswith("The settings found are not confirmed: of 9 trials, trial ")


def test_a_search_of_the_optimizer_alone_has_one_baseline():
    settings = TuneSettings(mixer="none")
    assert methods_of(settings, {"mixer": "none", "lr": 0.3}).keys() == {"found", "none-default"}
    fixed = TuneSettings(settings={"lr": 0.3})
    found = {"mixer": "recursivemix", "mixer_options": {"prob": 0.5}, "weight_decay": 5e-4}
    assert methods_of(fixed, found).keys() == {"found", "none"}


def test_a_winner_of_default_settings_without_mixing_needs_no_confirmation(pretend):
    record, grids = pretend(runs=Pretender(score=lambda settings: 70.0), mixer="none", trials=1, epochs=1)
    assert grids == []
    assert record["confirmation"] is None
    assert record["answer"].startswith(
        "No settings are found to be better than the default ones: of 1 trial"
    )


def test_best_yaml_is_for_fit_and_holds_nothing_out(pretend, tmp_path, image_root):
    record, _ = pretend(*BETTER, data=image_root)
    text = (tmp_path / "out" / "best.yaml").read_text()
    assert text.startswith("# Found by recursivemix tune")
    best = yaml.safe_load(text)
    assert best == record["best"]
    settings = parse(["fit", "--config", str(tmp_path / "out" / "best.yaml")]).arguments["settings"]
    winner = record["trials"][record["winner"]]["params"]
    assert (settings.lr, settings.mixer_options["prob"]) == (winner["lr"], winner["prob"])
    assert (settings.data, settings.holdout, settings.val_split) == (image_root, None, None)


def test_data_without_another_split_keep_one(pretend, image_root):
    record, _ = pretend(*BETTER, data=image_root / "train")
    assert record["best"]["val_split"] == 0.2


def test_the_page_shows_every_trial(pretend, tmp_path):
    record, _ = pretend(*BETTER, runs=Pretender(fail=lambda settings: settings["lr"] > 0.2))
    page = (tmp_path / "out" / "page.html").read_text()
    for trial in record["trials"]:
        assert f'<th scope="row">{trial["number"]}' in page
    for words in ("settings found", "default settings", "failed", "stopped at a rung", "Score by prob",
                  "Rank correlation with the score after 1 epoch<", "Seeds 1, 2, 3"):  # fmt: skip
        assert words in page


def test_equal_scores_have_no_correlation_and_small_p_values_are_a_limit(pretend, tmp_path, recwarn):
    runs = Pretender(score=lambda settings: 50.0)
    pretend(pair("none", -1.5, 0.5, 1e-5), runs=runs)
    assert not [warning for warning in recwarn if "constant" in str(warning.message)]
    page = (tmp_path / "out" / "page.html").read_text()
    assert "<td>&lt; 0.001</td>" in page


def test_report_names_the_page_and_the_confirmation_of_a_search(pretend, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / tune.SETTINGS).write_text("epochs: 9\n")
    assert main(["report", str(out)]) == 2
    assert f"{out} holds a search of recursivemix tune, which has no page yet\n" in capsys.readouterr().err
    (out / tune.SETTINGS).unlink()
    pretend()
    confirmation = out / "confirmation" / "trial-001"
    confirmation.mkdir(parents=True)
    (confirmation / "comparison.yaml").write_text("{}")
    assert main(["report", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"with the page {out / 'page.html'}; report the confirmation in {confirmation}\n" in told
    assert main(["report", str(out / "nothing")]) == 2
    assert f"there is no folder {out / 'nothing'}\n" in capsys.readouterr().err


def test_the_same_command_keeps_its_epochs_and_refuses_other_settings(pretend, tmp_path):
    pretend(*BETTER)
    before = (tmp_path / "out" / "study.journal").read_text()
    record, _ = pretend(*BETTER, epochs=None, seeds=4)
    assert record["config"]["epochs"] == 9
    with pytest.raises(
        ValueError, match=r"other settings \(val_split was 0.2, is 0.3\): choose another --out"
    ):
        pretend(*BETTER, val_split=0.3)
    with locked_folder(tmp_path / "out"), pytest.raises(ValueError, match="in use by another process"):
        pretend(*BETTER)
    assert (tmp_path / "out" / "study.journal").read_text().startswith(before)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"budget": "600s"}, 22),  # three brackets of 13 runs: 3 * (130 + 9 * 2 + 3 * 7 + 22)
        ({"budget": "320s"}, 10),  # two: 2 * (130 + 9 * 1 + 3 * 3 + 10)
        ({"budget": "150s"}, 5),  # one: 130 + 9 * 1 + 3 * 2 + 5
        ({"budget": "600s", "trials": 9}, 157),  # one: 130 + 9 * 17 + 3 * 52 + 157
        ({"budget": "600s", "jobs": 4}, 90),  # three, of 3 + 1 + 1 runs one after another
    ],
)
def test_the_budget_chooses_the_epochs(monkeypatch, options, epochs):
    monkeypatch.setattr(tune, "measure_run", lambda *args: Pace("found", epoch=1.0, once=10.0))
    settings = TuneSettings(**options)
    chosen, pace = tune.with_epochs(settings, space_of(settings))
    assert chosen.epochs == epochs
    number = ceil(settings.trials / 9) if settings.trials else 3 if epochs > 10 else 2 if epochs > 6 else 1
    for full, fits in ((epochs, True), (epochs + 1, False)):
        rungs = rungs_of(full, settings)
        assert (number * rungs.seconds(pace, settings.jobs, False) <= float(options["budget"][:-1])) == fits


def test_a_budget_without_room_for_a_run_is_refused(monkeypatch):
    monkeypatch.setattr(tune, "measure_run", lambda *args: Pace("found", epoch=1.0, once=10.0))
    settings = TuneSettings(budget="9s")
    with pytest.raises(ValueError, match="--budget 9s is too short: the shortest search needs about 11 s"):
        tune.with_epochs(settings, space_of(settings))


def test_a_budget_goes_with_settings_that_need_several_epochs(monkeypatch):
    monkeypatch.setattr(tune, "measure_run", lambda *args: Pace("found", epoch=1.0, once=10.0))
    options = {"average_last": 2, "freeze": "backbone", "unfreeze_epoch": 1}
    settings = TuneSettings(budget="1000s", settings=options)
    space = space_of(settings)
    tune.check_runs(settings, space)
    found, _ = tune.with_epochs(settings, space)
    assert found.epochs >= 9


def test_settings_that_short_runs_cannot_have_are_refused(pretend, tmp_path):
    with pytest.raises(ValueError, match=r"have 1 epoch: .*--settings.average_last must be .* 1, got 3"):
        pretend(*BETTER, settings={"average_last": 3})
    assert not (tmp_path / "out").exists()
    constant = {"schedule": "constant"}
    assert not TuneSettings(settings=constant | {"average_last": 1}).continues
    assert not TuneSettings(settings=constant, space={"early_stop": 2}).continues
    assert TuneSettings(settings=constant, space={"lr": [0.1, 0.2]}).continues


# -- real runs, in this process ---------------------------------------------------------------------


def start(words, log, threads):
    """Run the command of a run."""
    log.touch()
    assert words[:3] == list(CLI)
    return main(words[3:])


SMALL = {"batch_size": 8, "workers": 0, "precision": "32", "device": "cpu"}


def test_a_continued_run_equals_one_that_was_never_stopped(image_root, tmp_path):
    """The network after two rungs of a constant schedule, bit for bit."""
    settings = TuneSettings(
        data=image_root, out=tmp_path, trials=2, settings=SMALL | {"schedule": "constant"}
    )
    params = {"prob": 0.8, "omega": 0.3, "lr": 0.05, "mix_stop": 1.0}
    made = Search.__new__(Search)
    made.settings, made.rungs, made.space = settings, Rungs((1, 2), 2), space_of(settings)
    short, long = (made.job(0, params, epochs) for epochs in (1, 2))
    run_job(short, tmp_path, None, start)
    made.continue_run(long.runs[0], 0, 2)
    (run,) = long.runs
    direct = Job((dataclasses.replace(run, folder="direct/run"),))
    for job in (long, direct):
        run_job(job, tmp_path, None, start)
    one, other = (read_checkpoint(tmp_path / folder / LAST) for folder in (run.folder, "direct/run"))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, weights in one["state_dict"].items():
        assert weights.equal(other["state_dict"][name]), name
    records = [json.loads((tmp_path / f / RECORD).read_text()) for f in (run.folder, "direct/run")]
    assert records[0]["resumed_at_steps"]
    assert not records[1]["resumed_at_steps"]
    assert [row["lr"] for row in records[0]["epochs"]] == [row["lr"] for row in records[1]["epochs"]]


def copied(root: Path) -> Path:
    """A copy of a folder of images, as other data of the same classes."""
    return Path(shutil.copytree(root, root.with_name("other")))


def test_a_search_on_the_command_line(image_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Processes, "start", lambda self, words, log, threads: start(words, log, threads))
    words = ["tune", "--data", str(image_root), "--trials", "2", "--epochs", "1", "--seeds", "0",
             "--out", str(tmp_path / "out")]  # fmt: skip
    words += [word for name, value in SMALL.items() for word in (f"--settings.{name}", str(value))]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "2 trials in brackets of 1, compared at epoch 1" in printed
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert [trial["state"] for trial in record["trials"]] == ["complete"] * 2
    run = json.loads((tmp_path / "out" / "trials" / "trial-001-1-epochs" / RECORD).read_text())
    # Of 12 training images per class, 2 are held out; the val split is left alone.
    assert run["data"]["train_images"] == 30
    assert (run["data"]["evaluation_images"], run["data"]["evaluation_split"]) == (6, "held out")
    assert run["score_last"] == record["trials"][1]["scores"]["1"]
    # An evaluation of the checkpoint uses the same held-out images; of other data, their val split.
    checkpoint = str(tmp_path / "out" / "trials" / "trial-001-1-epochs" / LAST)
    for data, images in ((image_root, 6), (copied(image_root), 15)):
        measured = evaluate_checkpoint(Path(checkpoint), data, workers=0, device="cpu", precision="32")
        assert measured["images"] == images
        if data == image_root:
            assert measured["accuracy"]["top1"] == pytest.approx(run["score_last"], abs=1e-4)
    assert main([*words, "--space.prob", "2"]) == 2
    assert "holds a search with other settings (space was {}, is {'prob': 2})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--space.prob", "[0.5,2]"], "method 'prob=2.0': prob must be in [0, 1], got 2.0"),
        (["--model", "resnet1"], "resnet1"),
        (["--settings.batch_sise", "3"], "classification has no setting 'batch_sise'"),
        (["--mixer", "cutmx"], "--mixer must be one of"),
    ],
)
def test_wrong_settings_are_one_line_and_write_nothing(tmp_path, capsys, others, message):
    assert main(["tune", "--trials", "2", "--epochs", "1", "--out", str(tmp_path / "out"), *others]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_runs_of_the_confirmation_that_fail_are_named_at_the_end_without_their_reasons(monkeypatch, capsys):
    problems = {"none-seed1": "none-seed1: out of luck", "found-seed2": "found-seed2: out of luck"}

    def pretended(settings, say):
        for reason in problems.values():
            say(reason)
        return {"answer": "All is said.", "confirmation": {"problems": problems}}

    monkeypatch.setattr(tune, "tune", pretended)
    assert main(["tune", "--trials", "2"]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("out of luck") == 2
    assert "out of luck" not in printed.err
    assert (
        "2 runs of the confirmation failed, for the reasons above: none-seed1, found-seed2;" in printed.err
    )
