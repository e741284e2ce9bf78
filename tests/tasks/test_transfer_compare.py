"""``recursivemix transfer compare``: what is run, taken up, and said on the page; commands pretend."""

import json
import sys

import pytest
import yaml

from recursivemix.cli import main
from recursivemix.compare import transfer_compare as comparing
from recursivemix.compare.transfer_compare import COMPARISON, PAGE, TransferCompareConfig, compare, rebuild
from recursivemix.training.commands import beside

PRETENDER = """
import json, pathlib, sys, yaml
words = sys.argv[1:]
if "--resume" in words:
    folder = pathlib.Path(words[words.index("--resume") + 1])
    settings = json.loads(folder.with_name(folder.name + ".json").read_text())
else:
    folder = pathlib.Path(words[words.index("--out") + 1])
    settings = yaml.safe_load(words[words.index("--config") + 1])
print("words", json.dumps(words))
if settings["seed"] == 1 and settings.get("mixer") == "cutmix":
    sys.exit("out of luck")
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
(folder / "checkpoints" / "last.ckpt").write_text("x")
seed = settings["seed"]
if words[0] == "fit":
    record = {
        "commit": "abc", "acc1_last": 50.0 + seed, "seconds": 3.0, "epochs": [{}] * 4,
        "config": {"model": "resnet18", "data": None},
        "data": {"train_images": 100, "image_size": 32},
    }
else:
    better = 5 * ("recursivemix" in settings["backbone"]) + 2 * (settings.get("mixer") == "recursivemix")
    score = 40.0 + seed + better + 0.1 * seed * better
    record = {
        "seed": seed, "commit": "abc", "score": "ap", "score_last": score, "score_best": score,
        "best_epoch": 2, "metrics": {"ap": score, "ap50": score + 20, "apl": None},
        "per_class": {"cat": score + 1, "dog": score - 1}, "seconds": 9.0, "images_per_second": 5.0,
        "epochs": [{"epoch": e, "loss": 2.0 / e, "ap": score - 4 + 2 * e} for e in (1, 2)],
        "mixer_stats": {}, "backbone": {"keys": 10, "keys_matched": 10},
        "data": {"name": "x/pets", "train_images": 60, "evaluation_images": 20,
                 "evaluation_split": "val", "classes": ["cat", "dog"]},
    }
(folder / "record.json").write_text(json.dumps(record))
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A command line whose runs take no time."""
    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER)
    monkeypatch.setattr(comparing, "CLI", (sys.executable, str(script)))
    return tmp_path / "compared"


def config(out, **others):
    settings = {
        "mixers": "none,recursivemix",
        "methods": {"dense": {"backbone": "none", "mixer": "recursivemix"}},
        "seeds": 3,
        "pretrain": {"model": "resnet18", "epochs": 4},
        "settings": {"epochs": 2},
    } | others
    return TransferCompareConfig(out=out, **settings)


def commands(folder):
    lines = beside(folder, ".log").read_text().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("words ")]


def test_every_backbone_is_trained_once_and_transferred(pretend):
    lines = []
    comparison, problems = compare(config(pretend), lines.append)
    assert problems == {}
    assert len(lines) == 9
    backbones = sorted(p.name for p in (pretend / "backbones").iterdir() if p.is_dir())
    assert backbones == sorted(f"{m}-seed{s}" for m in ("none", "recursivemix") for s in range(3))
    (fit,) = commands(pretend / "backbones" / "none-seed2")
    assert fit[0] == "fit"
    assert yaml.safe_load(fit[fit.index("--config") + 1]) == {
        "model": "resnet18", "epochs": 4, "mixer": "none", "seed": 2,
    }  # fmt: skip
    (dense,) = commands(pretend / "runs" / "dense-seed2")
    assert dense[:2] == ["transfer", "detection"]
    settings = yaml.safe_load(dense[dense.index("--config") + 1])
    assert settings["backbone"].endswith("backbones/none-seed2/checkpoints/last.ckpt")
    assert (settings["mixer"], settings["epochs"], settings["seed"]) == ("recursivemix", 2, 2)
    # Once more: nothing is run.
    again, _ = compare(config(pretend), lines.append)
    assert len(commands(pretend / "runs" / "dense-seed2")) == 1
    assert again["answer"] == comparison["answer"]


def test_what_the_page_says(pretend):
    comparison, _ = compare(config(pretend), lambda line: None)
    saved = json.loads((pretend / COMPARISON).read_text())
    assert saved == comparison
    (pair,) = (p for p in saved["pairs"] if p["method"] == "recursivemix" and p["metric"] == "ap")
    assert pair["differences"] == pytest.approx([5.0, 5.5, 6.0])
    assert pair["n"] == 3
    assert "recursivemix and dense have a higher box AP than none on pets" in saved["answer"]
    assert [m["label"] for m in saved["methods"]] == ["none", "recursivemix", "dense"]
    assert saved["methods"][2]["mixer"] == "none"
    assert "apl" not in saved["methods"][0]["estimates"]
    assert saved["methods"][0]["estimates"]["pretrain_acc1"]["mean"] == pytest.approx(51)
    page = (pretend / PAGE).read_text()
    for words in ("Which backbone helps downstream", "box AP by class (%)", "Repeat it", "dense"):
        assert words in page
    (pretend / PAGE).unlink()
    assert rebuild(pretend)["answer"] == saved["answer"]
    assert (pretend / PAGE).read_text() == page


def test_words_that_yaml_takes_for_something_else(pretend):
    grid = config(pretend, seeds=1, pretrain={"cache": True}, settings={"precision": 32})
    comparison, _ = compare(grid, lambda line: None)
    (fit,) = commands(pretend / "backbones" / "none-seed0")
    assert yaml.safe_load(fit[fit.index("--config") + 1])["cache"] == "yes"
    again = yaml.safe_load(comparison["config_yaml"])
    assert (again["pretrain"], again["settings"]) == ({"cache": "yes"}, {"precision": "32"})


def test_a_backbone_that_fails_takes_no_other_with_it(pretend):
    grid = config(pretend, mixers="none,cutmix", methods={}, seeds=2)
    comparison, problems = compare(grid, lambda line: None)
    assert list(problems) == ["cutmix-seed1"]
    assert "out of luck" in problems["cutmix-seed1"]
    assert comparison["unfinished"] == ["cutmix-seed1"]
    assert "Not finished: cutmix-seed1" in (pretend / PAGE).read_text()


def test_what_was_stopped_is_taken_up(pretend):
    compare(config(pretend, seeds=1), lambda line: None)
    run = pretend / "runs" / "none-seed0"
    (run / "record.json").unlink()
    compare(config(pretend, seeds=1), lambda line: None)
    assert commands(run)[1] == [
        "transfer", "detection", "--resume", str(run), "--trainer.enable-progress-bar", "false",
    ][: len(commands(run)[1])]  # fmt: skip
    assert "--resume" in commands(run)[1]


def test_other_settings_are_refused(pretend):
    compare(config(pretend, seeds=1), lambda line: None)
    with pytest.raises(ValueError, match=r"other settings \(epochs was 2, is 9\)"):
        compare(config(pretend, seeds=1, settings={"epochs": 9}), lambda line: None)
    with pytest.raises(ValueError, match=r"backbones/none-seed0 is a run of other settings"):
        compare(config(pretend, seeds=1, pretrain={"epochs": 5}), lambda line: None)


def test_one_seed_tells_nothing(pretend):
    comparison, _ = compare(config(pretend, seeds=1), lambda line: None)
    assert comparison["answer"].startswith("One seed can't tell methods apart")


def test_the_command_line(pretend, capsys):
    words = ["--mixers", "none,recursivemix", "--seeds", "2", "--pretrain.epochs", "4"]
    assert main(["transfer", "compare", "--out", str(pretend), *words]) == 0
    told = capsys.readouterr().out
    assert "4 of 4: recursivemix-seed1: box AP" in told
    assert f"page: {pretend / PAGE}" in told
    assert main(["report", str(pretend), "--csv", str(pretend / "table.csv")]) == 0
    assert (pretend / "table.csv").read_text().startswith("method,metric")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mixers": "none,nonesuch"}, "nonesuch"),
        ({"seeds": 0}, "at least 1"),
        ({"methods": {"dense": {"mixer": "recursivemix"}}}, "needs a backbone"),
        ({"methods": {"a/b": {"backbone": "none"}}}, "names folders"),
        ({"baseline": "cutmix"}, "--baseline must be one of"),
        ({"pretrain": {"mixer": "none"}}, "what the comparison varies"),
        ({"settings": {"nonesuch": 1}}, "nonesuch: not settings"),
        ({"settings": {"backbone": "x"}}, "backbone: not settings"),
    ],
)
def test_wrong_settings(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        config(tmp_path, **options)
