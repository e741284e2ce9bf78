"""``recursivemix transfer compare`` and ``compare --task``: from settings to page; commands pretend."""

import json
import sys
from dataclasses import replace

import pytest
import yaml
from PIL import Image

from recursivemix.cli import main
from recursivemix.compare import execute
from recursivemix.compare.compare import PAGE, SETTINGS, compare, report
from recursivemix.compare.records import COMPARISON
from recursivemix.compare.settings import BackboneSettings, CompareSettings

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
record = {"date": "d", "command": ["c"], "commit": "abc", "versions": {}, "hardware": {}, "seed": seed}
if words[0] == "fit":
    record |= {
        "score": "acc1", "score_last": 50.0 + seed, "seconds": 3.0, "epochs": [{}] * 4,
        "config": {"model": "resnet18", "data": None},
        "data": {"train_images": 100, "image_size": 32},
    }
else:
    better = 5 * ("recursivemix" in settings["backbone"]) + 2 * (settings.get("mixer") == "recursivemix")
    score = 40.0 + seed + better + 0.1 * seed * better
    record |= {
        "score": "ap", "score_last": score, "score_best": score, "best_epoch": 2,
        "metrics": {"ap": score, "ap50": score + 20, "apl": None},
        "per_class": {"cat": score + 1, "dog": score - 1}, "seconds": 9.0, "images_per_second": 5.0,
        "peak_memory_bytes": 1, "parameters": {"training": 2, "inference": 1},
        "epochs": [{"epoch": e, "loss": 2.0 / e, "ap": score - 4 + 2 * e} for e in (1, 2)],
        "mixer_stats": {}, "backbone": {"keys": 10, "keys_matched": 10},
        "data": {"name": "x/pets", "train_images": 60, "evaluation_images": 20,
                 "evaluation_split": "val", "classes": ["cat", "dog"]},
    }
    from PIL import Image
    Image.new("RGB", (30, 20)).save(folder / "predictions.png")
(folder / "record.json").write_text(json.dumps(record))
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A command line whose runs take no time."""
    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER)
    monkeypatch.setattr(execute, "CLI", (sys.executable, str(script)))
    return tmp_path / "compared"


def backbones(out, **others) -> BackboneSettings:
    settings = {
        "mixers": "none,recursivemix",
        "methods": {"dense": {"backbone": "none", "mixer": "recursivemix"}},
        "pretrain": {"model": "resnet18", "epochs": 4},
        "epochs": 2,
    } | others
    return BackboneSettings(out=out, **settings)


def silent(line: str) -> None:
    """Print nothing."""


def test_backbones_are_compared_from_settings_to_page(pretend):
    lines = []
    comparison, problems = compare(backbones(pretend), lines.append)
    assert problems == {}
    assert len(lines) == 9
    assert json.loads((pretend / COMPARISON).read_text()) == comparison
    (pair,) = (p for p in comparison["pairs"] if p["method"] == "recursivemix" and p["metric"] == "ap")
    assert pair["differences"] == pytest.approx([5.0, 5.5, 6.0])
    assert comparison["answer"].startswith(
        "recursivemix has a higher box AP than none on pets (detection, 60 training images, resnet18, "
        "2 epochs)"
    )
    assert [m["label"] for m in comparison["methods"]] == ["none", "recursivemix", "dense"]
    assert comparison["methods"][2]["options"] == {"mixer": "recursivemix"}
    assert comparison["pretraining"] == {
        "name": "digits", "train_images": 100, "image_size": 32, "model": "resnet18", "epochs": 4,
    }  # fmt: skip
    with Image.open(pretend / "pictures" / "predictions-dense.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (30, 20))
    page = (pretend / PAGE).read_text()
    assert "What the networks predict" in page
    (pretend / PAGE).unlink()
    assert report(pretend)["answer"] == comparison["answer"]
    assert (pretend / PAGE).read_text() == page
    # Once more: nothing is run.
    again, _ = compare(backbones(pretend), lines.append)
    assert "6 of 6 jobs are finished already" in lines
    assert again["answer"] == comparison["answer"]


def test_dense_mixing_is_compared_on_one_backbone(pretend):
    settings = CompareSettings(
        task="detection", settings={"backbone": "x.ckpt"}, epochs=2, first_seed=2, out=pretend
    )
    comparison, problems = compare(settings, silent)
    assert problems == {}
    assert comparison["seeds"] == [2, 3, 4]
    assert comparison["pretraining"] is None
    assert [m["label"] for m in comparison["methods"]] == ["none", "recursivemix"]
    assert "recursivemix has a higher box AP than none" in comparison["answer"]
    assert "Which mixing method helps?" in (pretend / PAGE).read_text()
    assert not (pretend / "backbones").exists()


def test_the_settings_repeat_the_comparison(pretend):
    settings = backbones(pretend, pretrain={"cache": True}, settings={"precision": 32}, seeds=1)
    comparison, _ = compare(settings, silent)
    again = yaml.safe_load(comparison["config_yaml"])
    assert again == yaml.safe_load((pretend / SETTINGS).read_text())
    assert (again["pretrain"], again["settings"]) == ({"cache": True}, {"precision": 32})
    assert again["task"] == "detection"
    repeated = CompareSettings(**again, out=pretend)
    _, problems = compare(repeated, silent)  # the same runs
    assert problems == {}


def test_a_backbone_that_fails_takes_no_other_with_it(pretend):
    settings = backbones(pretend, mixers="none,cutmix", methods={}, seeds=2)
    comparison, problems = compare(settings, silent)
    assert list(problems) == ["cutmix-seed1"]
    assert "out of luck" in problems["cutmix-seed1"]
    assert comparison["unfinished"] == ["cutmix-seed1"]
    assert "Not finished: cutmix-seed1" in (pretend / PAGE).read_text()


def test_other_settings_are_refused(pretend):
    settings = backbones(pretend, seeds=1)
    compare(settings, silent)
    with pytest.raises(ValueError, match=r"other settings \(epochs was 2, is 9\)"):
        compare(replace(settings, epochs=9), silent)
    with pytest.raises(ValueError, match=r"backbones/none-seed0 was made with other settings"):
        compare(replace(settings, pretrain={"epochs": 5}), silent)


def test_the_command_line(pretend, capsys):
    words = ["--mixers", "none,recursivemix", "--seeds", "2", "--pretrain.epochs", "4", "--epochs", "2"]
    assert main(["transfer", "compare", "--out", str(pretend), *words]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4: recursivemix-seed1: 46.50 % at the last epoch" in printed
    assert f"page: {pretend / PAGE}" in printed
    assert main(["report", str(pretend), "--csv", str(pretend / "table.csv")]) == 0
    assert (pretend / "table.csv").read_text().startswith("method,metric")
    words = ["compare", "--task", "detection", *words, "--out", str(pretend)]
    assert main(words) == 0  # the same comparison
    assert "4 of 4 jobs are finished already" in capsys.readouterr().out
