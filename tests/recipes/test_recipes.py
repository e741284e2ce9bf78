"""Recipes: complete headers, settings that `fit` knows, and two steps of each."""

import dataclasses
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest
import yaml

from recursivemix.cli import main
from recursivemix.mixing import create_mixer
from recursivemix.recipes import HEADER, read_recipe, recipe_names
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.optimizer import lr_factor

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "docs" / "paper.md"
TRANSFER = ("ade20k-upernet-resnet50", "coco-atss-resnet50")
NAMES = [name for name in recipe_names() if name not in TRANSFER]
SIBLINGS = ("none", "mixup", "cutmix")
SHORT = [
    "--epochs", "1", "--batch-size", "2", "--workers", "0", "--device", "cpu", "--precision", "32",
    "--trainer.limit-train-batches", "2", "--trainer.limit-val-batches", "1",
]  # fmt: skip
REDUCED = (
    "data", "out", "epochs", "batch_size", "image_size", "workers", "device", "precision", "pretrained",
)  # fmt: skip
"""What `SHORT` and `train` change of a recipe."""
pytestmark = pytest.mark.usefixtures("without_picture")


def file_text(name):
    return resources.files("recursivemix.recipes").joinpath(f"{name}.yaml").read_text()


def numbers(text):
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def train(name, image_root, out, *arguments):
    """A run of two steps through the command line; the settings that it says it had."""
    # Above 64 pixels networks keep their own stem, as at 224; and 96 cost less than 64 with the small stem.
    size = "96" if name.startswith(("imagenet", "finetune")) else "32"
    command = ["fit", "--recipe", name, "--data", str(image_root), "--out", str(out), "--image-size", size]
    if "pretrained" in read_recipe(name).settings:  # tests have no network
        command.append("--no-pretrained")
    assert main([*command, *SHORT, *arguments]) == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    record = json.loads((out / "record.json").read_text())
    assert (record["data"]["image_size"], len(record["epochs"])) == (int(size), 1)
    return settings


# -- the files ----------------------------------------------------------------------------------------


def test_every_recipe_of_the_paper_is_there():
    assert set(recipe_names()) == {
        *TRANSFER,
        "cifar10-pyramidnet200",
        "cifar100-resnet18",
        "cifar100-resnet50",
        "cifar100-densenet161",
        "cifar100-wrn28-10",
        "cifar100-pyramidnet164",
        "imagenet-resnet50-300",
        "imagenet-resnet50-100",
        "imagenet-pvtv2-b1",
        "finetune",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_the_header_is_complete(name):
    recipe = read_recipe(name)
    header = recipe.header
    assert set(header) == set(HEADER)
    assert all(header.values())
    command = "fit" if recipe.task == "fit" else f"transfer {recipe.task}"
    assert header["command"].startswith(f"recursivemix {command} --recipe {name} --data DIR")
    records = re.findall(r"results/[\w./-]+\.json", header["expected"])
    assert records or "not run" in header["expected"]
    for record in records:
        assert (ROOT / record).is_file()
    assert max(map(len, file_text(name).splitlines())) <= 120


@pytest.mark.parametrize("name", recipe_names())
def test_the_whole_comment_is_the_header(name):
    """No line of it falls out between two entries, where `read_header` would not see it."""
    lines = file_text(name).splitlines()[2:]
    comment = " ".join(line.strip("# ") for line in lines if line.startswith("#"))
    header = read_recipe(name).header
    assert comment == " ".join(f"{entry}: {header[entry]}" for entry in HEADER)


@pytest.mark.parametrize("name", NAMES)
def test_published_percentages_are_those_of_the_reference(name):
    published = numbers(PAPER.read_text())
    expected = read_recipe(name).header["expected"]
    percentages = re.findall(r"(\d+(?:\.\d+)?) ?%", expected)
    assert not set(percentages) - published
    # A percentage that stands without its sign would get past the check.
    assert set(re.findall(r"\d\d\.\d\d?", expected)) <= set(percentages)


@pytest.mark.parametrize("name", NAMES)
def test_the_header_tells_the_settings_below_it(name):
    recipe = read_recipe(name)
    told = recipe.header["settings"]
    settings = recipe.settings
    named = ("batch_size", "lr", "weight_decay")
    for value in (recipe.mixers["recursivemix"]["omega"], *(settings[key] for key in named)):
        assert float(value) in {float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-\d+)?", told)}
    assert ("without Nesterov" in told, "with Nesterov" in told) == {
        "momentum": (True, False),
        "sgd": (False, True),
        "adamw": (False, False),
    }[settings["optimizer"]]
    # The command for several devices has the same global batch.
    (batch, devices) = re.findall(r"--batch-size (\d+) --devices (\d+)", recipe.header["command"])[0]
    assert int(batch) * int(devices) == settings["batch_size"]
    assert f"global {settings['batch_size']};" in recipe.header["command"]


@pytest.mark.parametrize("name", NAMES)
def test_every_sibling_can_be_built(name):
    recipe = read_recipe(name)
    first = "none" if name == "finetune" else "recursivemix"
    assert set(recipe.mixers) == {"recursivemix", *SIBLINGS}
    assert next(iter(recipe.mixers)) == first
    known = {field.name for field in dataclasses.fields(ClassificationSettings)}
    for mixer in (None, *recipe.mixers):
        settings = recipe.settings_with(mixer)
        assert set(settings) <= known
        config = ClassificationSettings(**settings)
        assert config.mixer == mixer or (mixer is None and config.mixer == first)
        create_mixer(config.mixer, 100, label_smoothing=config.label_smoothing, **config.mixer_options)


def test_the_published_settings_stand_in_the_files():
    """The rows of docs/paper.md 3 that the figures of the paper hang on."""
    cifar10, imagenet = read_recipe("cifar10-pyramidnet200"), read_recipe("imagenet-resnet50-300")
    assert cifar10.mixers["recursivemix"]["omega"] == 0.1
    assert imagenet.mixers["recursivemix"]["omega"] == 0.5
    rates = []
    for epoch in (0, 4, 149, 150, 224, 225, 299):
        settings = ClassificationSettings(**cifar10.settings_with())
        milestones = [milestone / settings.epochs for milestone in settings.milestones]
        warmup = round(10 * settings.warmup_epochs)  # of ten steps an epoch; the last of each
        factor = lr_factor(10 * epoch + 9, 3000, warmup, settings.schedule, milestones, settings.gamma)
        rates.append(settings.lr * factor)
    assert rates == pytest.approx([0.05, 0.25, 0.25, 0.025, 0.025, 0.0025, 0.0025])
    shorter = read_recipe("imagenet-resnet50-100")
    assert shorter.settings == imagenet.settings | {"epochs": 100}
    assert shorter.mixers == imagenet.mixers


# -- two steps of each ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "imagenet-resnet50-100"])
def test_the_network_of_a_recipe_trains(name, image_root, tmp_path, capsys):
    """Two steps: the second one mixes and trains the region head. 100 epochs have the network of 300."""
    out = tmp_path / "run"
    settings = train(name, image_root, out, "--mixer", "recursivemix")
    assert "feature map of the region head" in capsys.readouterr().out
    for key, value in read_recipe(name).settings_with("recursivemix").items():
        if key not in REDUCED:
            assert settings[key] == value, key
    shutil.rmtree(out / "checkpoints")  # hundreds of megabytes


@pytest.mark.parametrize("mixer", SIBLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_every_sibling_trains(name, mixer, image_root, tmp_path):
    # The networks are trained above; here a small one is enough for the settings.
    recipe = read_recipe(name)
    small = "test_resnet" if "drop_path" in recipe.settings else "resnet20"
    settings = train(name, image_root, tmp_path / "run", "--mixer", mixer, "--model", small)
    assert (settings["mixer"], settings["model"]) == (mixer, small)
    assert settings["mixer_options"] == recipe.mixers[mixer]


# -- the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["80", "200"])
def test_recipes_lists_them_all(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    for name in NAMES:
        assert name in printed


@pytest.mark.parametrize("name", NAMES)
def test_recipes_prints_the_file(name, capsys):
    assert main(["recipes", name]) == 0
    assert capsys.readouterr().out == file_text(name)


@pytest.mark.parametrize("command", [["recipes"], ["fit", "--recipe"]])
def test_an_unknown_recipe_names_the_nearest(command, capsys):
    assert main([*command, "cifar100-resnet-18"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no recipe 'cifar100-resnet-18'" in error
    assert "did you mean cifar100-resnet18" in error


def test_a_mixer_that_the_recipe_says_nothing_of(image_root, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["fit", "--recipe", "cifar100-resnet18", "--data", str(image_root), "--out", str(out)]
    assert main([*command, "--mixer", "resizemix"]) == 2
    error = capsys.readouterr().err
    assert "'resizemix'" in error
    assert "recursivemix, none, mixup, cutmix" in error
    assert not out.exists()


def test_weights_and_a_crop_replace_what_the_recipe_says_of_others(image_root, capsys):
    def settings_of(*flags):
        with pytest.raises(SystemExit):
            main(["fit", "--recipe", "finetune", "--data", str(image_root), *flags, "--print-config"])
        return yaml.safe_load(capsys.readouterr().out)

    settings = settings_of()
    assert (settings["pretrained"], settings["crop_scale"]) == (True, [0.35, 1.0])
    settings = settings_of("--weights", "trained.pth")
    assert (settings["pretrained"], settings["weights"]) == (False, "trained.pth")
    assert settings["crop_scale"] == [0.35, 1.0]
    for crop, scale in (("pad", [0.08, 1.0]), ("none", [0.08, 1.0]), ("resized", [0.35, 1.0])):
        settings = settings_of(f"--crop={crop}")
        assert (settings["crop"], settings["crop_scale"], settings["pretrained"]) == (crop, scale, True)


def test_flags_win_and_the_run_can_be_repeated_from_its_config(image_root, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    flags = ["--model", "resnet20", "--lr", "0.03", "--mixer-options.sync-ranks=true", "--weight-decay=0"]
    settings = train("cifar10-pyramidnet200", image_root, first, *flags)
    recipe = read_recipe("cifar10-pyramidnet200").settings_with()
    options = recipe.pop("mixer_options")
    assert settings["mixer_options"] == options | {"sync_ranks": True}
    assert (settings["model"], settings["lr"], settings["weight_decay"]) == ("resnet20", 0.03, 0)
    for key, value in recipe.items():
        if key not in (*REDUCED, "model", "lr", "weight_decay"):
            assert settings[key] == value, key

    assert main(["fit", "--config", str(first / "config.yaml"), "--out", str(again)]) == 0
    repeated = yaml.safe_load((again / "config.yaml").read_text())
    assert repeated | {"out": settings["out"]} == settings
    rows = [json.loads((run / "record.json").read_text())["epochs"] for run in (first, again)]
    for (one,), (other,) in [rows]:
        measured = {key for key in one if key.startswith(("loss", "acc", "lr", "val"))}
        assert len(measured) >= 5
        assert {key: one[key] for key in measured} == {key: other[key] for key in measured}
