"""What a comparison is made of, and what is refused before anything runs."""

import dataclasses
from pathlib import Path

import pytest
import torch

from recursivemix.compare.grid import check_grid, jobs_of, labelled_runs
from recursivemix.compare.pace import Pace, epochs_in_budget, total_seconds
from recursivemix.compare.settings import BackboneSettings, CompareSettings, budget_seconds
from recursivemix.data.order import TrainingOrder
from recursivemix.tasks.settings import ClassificationSettings, DetectionSettings
from recursivemix.training.prepare import prepare

TWO = CompareSettings(
    mixers="none,recursivemix",
    methods={"recursivemix": {"mixer_options": {"omega": 0.1}}, "gentle": {"mixer": "cutmix"}},
    seeds=2,
    epochs=4,
    settings={"lr": 0.05, "trainer": {"limit_train_batches": 2}},
)


def test_the_grid_is_methods_times_seeds_seed_by_seed():
    jobs = jobs_of(TWO)
    assert [job.name for job in jobs] == [
        "none-seed0", "recursivemix-seed0", "gentle-seed0",
        "none-seed1", "recursivemix-seed1", "gentle-seed1",
    ]  # fmt: skip
    (run,) = jobs[1].runs
    assert (run.command, run.folder, run.probes, run.images) == (
        ("fit",),
        "runs/recursivemix-seed0",
        "all",
        2000,
    )
    assert run.settings == {
        "model": "resnet20", "epochs": 4, "seed": 0, "lr": 0.05, "mixer": "recursivemix",
        "mixer_options": {"omega": 0.1}, "trainer": {"limit_train_batches": 2},
    }  # fmt: skip
    (run,) = jobs[5].runs
    assert run.settings["mixer"] == "cutmix"
    assert run.settings["seed"] == 1
    assert TWO.reference == "none"
    assert dataclasses.replace(TWO, baseline="gentle").reference == "gentle"


def test_seeds_are_counted_from_the_first_seed():
    runs = labelled_runs(dataclasses.replace(TWO, first_seed=5))
    assert [run.folder for run in runs][::3] == ["runs/none-seed5", "runs/none-seed6"]
    assert {run.settings["seed"] for run in runs} == {5, 6}


@pytest.mark.parametrize("task", ["detection", "instance", "segmentation"])
def test_other_tasks_compare_dense_mixing(task):
    settings = CompareSettings(task=task, data=Path("cells"), seeds=1, settings={"backbone": "x.ckpt"})
    settings.check_methods()
    runs = labelled_runs(settings)
    assert [run.label for run in runs] == ["none", "recursivemix"]
    assert runs[1].command == ("transfer", task)
    assert runs[1].settings == {
        "epochs": 20, "seed": 0, "data": "cells", "backbone": "x.ckpt", "mixer": "recursivemix",
    }  # fmt: skip
    assert (runs[1].probes, runs[1].backbone) == (None, None)


def test_backbones_are_trained_once_and_transferred_by_every_label_that_names_them():
    settings = BackboneSettings(
        mixers="none,cutmix",
        methods={"dense": {"backbone": "none", "mixer": "recursivemix"}},
        seeds=2,
        pretrain={"model": "resnet18", "epochs": 4},
        settings={"epochs": 2},
    )
    settings.check_methods()
    jobs = jobs_of(settings)
    assert [job.name for job in jobs] == ["none-seed0", "cutmix-seed0", "none-seed1", "cutmix-seed1"]
    before, plain, dense = jobs[2].runs
    assert (before.folder, before.command, before.label) == ("backbones/none-seed1", ("fit",), None)
    assert before.settings == {"model": "resnet18", "epochs": 4, "mixer": "none", "seed": 1}
    assert (plain.folder, plain.backbone) == ("runs/none-seed1", "backbones/none-seed1")
    assert plain.settings == {"epochs": 2, "seed": 1}
    assert dense.command == ("transfer", "detection")
    assert dense.settings == {"epochs": 2, "seed": 1, "mixer": "recursivemix"}
    assert settings.reference == "none"


def test_a_seed_gives_every_method_the_same_weights_order_and_split(image_root, tmp_path):
    """Also with a share held out and a part of the images."""
    config = CompareSettings(
        data=image_root / "train",
        mixers="none,cutmix,recursivemix",
        model="resnet20",
        settings={"val_split": 0.25, "train_images": 20, "batch_size": 4},
    )
    splits = []
    for seed in (0, 1):
        runs = {}
        for label in config.labels:
            run = prepare(config.standalone_run(label, seed, out=tmp_path / f"{label}{seed}"), [], {})
            network = getattr(run.learner.network, "backbone", run.learner.network)
            names = [run.data.train.name(i) for i in range(len(run.data.train))]
            held = [run.data.evaluation.name(i) for i in range(len(run.data.evaluation))]
            order = TrainingOrder(len(names), run.settings.batch_size, run.settings.seed)
            runs[label] = (network.state_dict(), names, held, order)
        weights, *others = runs["none"]
        for label in ("cutmix", "recursivemix"):
            other_weights, *same = runs[label]
            assert same == others
            assert weights.keys() == other_weights.keys()
            assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
        splits.append(others)
    assert splits[0] != splits[1]


def test_seeds_choose_the_fold(image_root, tmp_path):
    """Three seeds evaluate each image once; the fourth begins with other folds of the same images."""
    config = CompareSettings(
        data=image_root / "train", mixers="none,cutmix", model="resnet20", first_seed=2, seeds=4, folds=3
    )
    held = []
    for seed in config.all_seeds:
        names = []
        for label in config.labels:
            run = prepare(config.standalone_run(label, seed, out=tmp_path / f"{label}{seed}"), [], {})
            names.append({run.data.evaluation.name(i) for i in range(len(run.data.evaluation))})
            assert run.settings.seed == seed
        assert names[0] == names[1]
        held.append(names[0])
    everything = {str(path) for path in (image_root / "train").rglob("*.png")}
    assert held[0] | held[1] | held[2] == everything
    assert sum(len(names) for names in held[:3]) == len(everything)
    assert held[3] not in held[:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 5, "task": "detection"}, "--folds needs --task classification"),
        ({"mixers": ","}, "--mixers must name at least one method"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"first_seed": -1}, "--first-seed must be at least 0, got -1"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"budget": "2h", "epochs": 3}, "leave --epochs or --budget out"),
        ({"budget": "2h", "settings": {"epochs": 3}}, "leave --epochs or --budget out"),
        ({"budget": "2 weeks"}, "such as 2h, 45m or 90s"),
        ({"budget": "0h"}, "such as 2h, 45m or 90s"),
        ({"baseline": "mixup"}, "one of none, cutmix, recursivemix, got 'mixup'"),
        ({"address": "auto"}, "add --executor ray"),
        ({"methods": {"../x": {"mixer": "none"}}}, "may have letters, digits"),
        ({"pretrain": {}}, "--pretrain needs --task detection, instance or segmentation"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CompareSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": "none,cutmx"}, "unknown mixer 'cutmx'"),
        ({"settings": {"seed": 3}}, "--settings.seed is set by the comparison"),
        ({"settings": {"mixer": "none"}}, "--settings.mixer is set by the comparison"),
        (
            {"settings": {"epochs": 3}, "epochs": 4},
            "--settings.epochs is set by the comparison: see --epochs",
        ),
        ({"folds": 5, "settings": {"val_split": 0.2}}, "--settings.val_split is set by --folds"),
        ({"methods": {"cutmix": {"fold": 1}}}, "'fold' must be the same for all methods"),
        ({"methods": {"cutmix": {"holdout": 0.5}}}, "'holdout' must be the same for all methods"),
        ({"folds": 5, "settings": {"holdout": 0.2}}, "--settings.holdout is set by --folds"),
        ({"settings": {"lrr": 3}}, "classification has no setting 'lrr'"),
        ({"settings": {"lr": -1}}, "--settings.lr must be > 0"),
        ({"methods": {"cutmix": {"lr": -1}}}, "lr of the method cutmix must be > 0"),
        ({"settings": {"mix_start": 50}}, "--settings.mix_start must be < --epochs 30"),
        ({"settings": {"lr": "high"}}, "--settings.lr must be float, got high"),
        ({"settings": {"batch_size": "many"}}, "--settings.batch_size must be int, got many"),
        (
            {"task": "detection", "settings": {"image_size": "x"}},
            "--settings.image_size must be int or a list of them, got x",
        ),
        ({"settings": {"precision": 8}}, "--settings.precision must be one of auto, .*, got 8"),
        ({"methods": {"mine": {}}}, "--methods.mine '{mixer: NAME}'"),
        ({"methods": {"cutmix": {"epochs": 7}}}, "'epochs' must be the same for all methods"),
        ({"methods": {"cutmix": {"seed": 7}}}, "'seed' must be the same for all methods"),
        ({"methods": {"cutmix": {"mixer_options": {"omega": 1}}}}, "method 'cutmix': .*does not take"),
        ({"methods": {"cutmix": {"mixer_options": {"alpha": -1}}}}, "Beta parameter"),
        ({"model": "resnet19"}, "unknown model"),
        ({"data": Path("nowhere")}, "there is no folder nowhere"),
        (
            {"task": "detection", "mixers": "none,cutmix"},
            "--mixers must be one of none, recursivemix, got cutmix",
        ),
        ({"task": "detection", "settings": {"head": "upernet"}}, "detection has no setting 'head'"),
    ],
)
def test_what_no_run_can_have_is_refused_before_any_run(changes, message):
    with pytest.raises(ValueError, match=message):
        check_grid(CompareSettings(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": "none,nonesuch"}, "unknown mixer 'nonesuch'"),
        (
            {"methods": {"dense": {"mixer": "recursivemix"}}},
            "--methods.dense needs a backbone, one of none",
        ),
        ({"baseline": "mixup"}, "--baseline must be one of"),
        ({"pretrain": {"mixer": "none"}}, "--pretrain.mixer is set by the comparison"),
        ({"pretrain": {"nonesuch": 1}}, "--pretrain: classification has no setting 'nonesuch'"),
        ({"settings": {"nonesuch": 1}}, "detection has no setting 'nonesuch'"),
        ({"settings": {"backbone": "x"}}, "--settings.backbone is set by the comparison"),
        ({"pretrain": {"lr": -1}}, "--pretrain.lr must be > 0"),
        ({"settings": {"frozen_stages": 9}}, "method 'none': --settings.frozen_stages must be 0 to 2"),
        ({"pretrain": {"pretrained": True, "model": "resnet18"}}, "add --pretrain.download true"),
        ({"task": "classification"}, "--pretrain needs --task detection"),
    ],
)
def test_wrong_comparisons_of_backbones_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_grid(BackboneSettings(**changes))


@pytest.mark.parametrize("size", [64, [64]])
def test_one_value_is_a_list_of_one(size):
    settings = CompareSettings(task="detection", settings={"image_size": size})
    assert settings.standalone_run("none", 0).image_size == [64]


def test_words_that_yaml_takes_for_something_else():
    settings = BackboneSettings(pretrain={"cache": True}, settings={"precision": 32})
    before, after = jobs_of(settings)[0].runs
    assert before.settings["cache"] == "yes"
    assert after.settings["precision"] == "32"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("1.5h", 5400), ("2 h", 7200)])
def test_budgets(text, seconds):
    assert budget_seconds(text) == seconds


def test_the_budget_decides_the_epochs():
    settings = CompareSettings(mixers="none,cutmix", seeds=3, budget="10m", jobs=2)
    paces = [Pace("none", epoch=2.0, once=10.0), Pace("cutmix", epoch=3.0, once=15.0)]
    epochs = epochs_in_budget(settings, paces)
    assert total_seconds(settings, paces, epochs) <= 600 < total_seconds(settings, paces, epochs + 1)
    assert total_seconds(settings, paces, 4) == 3 * (10 + 8 + 15 + 12) / 2
    with pytest.raises(ValueError, match="too short"):
        epochs_in_budget(dataclasses.replace(settings, budget="30s"), paces)


def test_runs_have_the_settings_of_their_task():
    assert isinstance(TWO.standalone_run("gentle", 1), ClassificationSettings)
    assert isinstance(BackboneSettings().standalone_run("none", 0), DetectionSettings)
