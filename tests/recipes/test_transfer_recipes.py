"""The transfer recipes: the paper's settings, figures of the reference alone, two steps of each."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from recursivemix.cli import main
from recursivemix.recipes import read_recipe
from recursivemix.training.optimizer import OptimizerSettings, lr_factor, scheduled_factor

PAPER = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
NAMES = {"coco-atss-resnet50": "detection", "ade20k-upernet-resnet50": "segmentation"}
SHORT = [
    "--epochs", "2", "--batch-size", "2", "--device", "cpu", "--precision", "32", "--norm", "train",
    "--channels", "16", "--trainer.limit-train-batches", "1", "--trainer.limit-val-batches", "1",
    "--trainer.enable-progress-bar", "false",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_published_figures_are_those_of_the_reference(name):
    published = set(re.findall(r"\d+\.\d+", PAPER.read_text()))
    header = read_recipe(name).header
    figures = set(re.findall(r"\d+\.\d+", re.sub(r"paper\.md \d+\.\d+", "", header["expected"])))
    assert len(figures) > 5
    assert figures <= published


def test_the_settings_are_the_papers():
    coco, ade = (read_recipe(name).settings for name in NAMES)
    wanted = {"lr": 0.01, "weight_decay": 1e-4, "batch_size": 16, "epochs": 12, "milestones": [8, 11]}
    assert {key: coco[key] for key in wanted} == wanted
    assert (coco["image_size"], coco["max_size"], coco["frozen_stages"]) == ([800], 1333, 1)
    steps = -(-117266 // 16)  # images of train2017 that have objects
    assert round(coco["warmup_epochs"] * steps) == 500
    wanted = {"lr": 1e-4, "weight_decay": 1e-4, "batch_size": 16, "image_size": 512, "aux_weight": 0.4}
    assert {key: ade[key] for key in wanted} == wanted
    assert abs(ade["epochs"] * -(-20210 // 16) - 80000) < 20210 / 16
    for settings in (coco, ade):
        assert f"global {settings['batch_size']};" in read_recipe("coco-atss-resnet50").header["command"]


def test_poly_is_a_power_of_what_is_left():
    rates = [lr_factor(step, 10, 0, "poly", gamma=0.9) for step in range(11)]
    assert rates == pytest.approx([(1 - step / 10) ** 0.9 for step in range(11)])
    for schedule, gamma in (("poly", 0.9), ("step", 0.1)):
        settings = OptimizerSettings(schedule=schedule, milestones=[5] if schedule == "step" else [])
        assert [scheduled_factor(settings, step, 10, 10) for step in (3, 7)] == [
            scheduled_factor(replace(settings, gamma=gamma), step, 10, 10) for step in (3, 7)
        ]


@pytest.mark.parametrize(("name", "task"), NAMES.items())
def test_a_step_of_each(name, task, tmp_path):
    """On the embedded scenes, with a small network and batch, all else as the recipe has it."""
    out = tmp_path / "run"
    size = "[96]" if task == "detection" else "96"
    small = ["--model", "resnet10t", "--image-size", size]
    if task == "detection":  # its milestones are beyond two epochs, which is no matter
        small += ["--depth", "1"]
    words = ["transfer", task, "--recipe", name, "--out", str(out), *SHORT, *small]
    assert main(words) == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    recipe = read_recipe(name).settings
    changed = {"epochs", "batch_size", "norm", "channels", "model", "image_size", "depth"}
    for key in recipe.keys() - changed:
        assert settings[key] == recipe[key], key
    assert json.loads((out / "record.json").read_text())["kind"] == f"transfer {task}"


def test_a_recipe_of_another_task(tmp_path, capsys):
    assert main(["transfer", "segmentation", "--recipe", "coco-atss-resnet50"]) == 2
    assert "is for another command" in capsys.readouterr().err
