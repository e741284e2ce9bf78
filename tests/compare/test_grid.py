"""What a comparison is made of, and what is refused before anything runs."""

import dataclasses
from pathlib import Path

import pytest
import torch

from recursivemix.compare.estimate import Pace, epochs_in_budget, grid_seconds
from recursivemix.compare.grid import CompareConfig, budget_seconds, jobs_of, open_grid
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.prepare import prepare

TWO = CompareConfig(
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
    assert jobs[1].settings == {
        "model": "resnet20", "epochs": 4, "seed": 0, "lr": 0.05, "mixer": "recursivemix",
        "mixer_options": {"omega": 0.1}, "trainer": {"limit_train_batches": 2},
    }  # fmt: skip
    assert jobs[5].settings["mixer"] == "cutmix"
    assert jobs[5].settings["seed"] == 1
    assert TWO.reference == "none"
    assert dataclasses.replace(TWO, baseline="gentle").reference == "gentle"


def test_a_seed_gives_every_method_the_same_weights_order_and_split(image_root, tmp_path):
    """Also with a share held out and a part of the images."""
    config = CompareConfig(
        data=image_root / "train",
        mixers="none,cutmix,recursivemix",
        model="resnet20",
        settings={"val_split": 0.25, "train_images": 20, "batch_size": 4},
    )
    splits = []
    for seed in (0, 1):
        runs = {}
        for label in config.labels:
            run = prepare(config.run_config(label, seed, out=tmp_path / f"{label}{seed}"), [], {})
            network = getattr(run.learner.network, "backbone", run.learner.network)
            names = [run.data.train.name(i) for i in range(len(run.data.train))]
            held = [run.data.evaluation.name(i) for i in range(len(run.data.evaluation))]
            runs[label] = (network.state_dict(), names, held, run.loaders.settings.seed)
        weights, *others = runs["none"]
        for label in ("cutmix", "recursivemix"):
            other_weights, *same = runs[label]
            assert same == others
            assert weights.keys() == other_weights.keys()
            assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
        splits.append(others)
    assert splits[0] != splits[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": "none,cutmx"}, "unknown method 'cutmx'"),
        ({"mixers": ","}, "names no method"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"budget": "2h", "epochs": 3}, "leave --epochs or --budget out"),
        ({"budget": "2 weeks"}, "such as 2h, 45m or 90s"),
        ({"budget": "0h"}, "such as 2h, 45m or 90s"),
        ({"baseline": "mixup"}, "one of none, cutmix, recursivemix, got 'mixup'"),
        ({"address": "auto"}, "add --executor ray"),
        ({"settings": {"seed": 3}}, "for the comparison to decide"),
        ({"settings": {"lrr": 3}}, "has no such setting"),
        ({"settings": {"lr": -1}}, "--lr must be > 0"),
        ({"settings": {"lr": "high"}}, '"lr".*Got value: high'),
        ({"settings": {"precision": 8}}, '"precision".*Got value: 8'),
        ({"methods": {"mine": {}}}, "needs --methods.mine"),
        ({"methods": {"cutmix": {"epochs": 7}}}, "'epochs' is no setting"),
        ({"methods": {"../x": {"mixer": "none"}}}, "letters, digits"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"cutmix": {"mixer_options": {"omega": 1}}}}, "method 'cutmix': .*does not take"),
        ({"methods": {"cutmix": {"mixer_options": {"alpha": -1}}}}, "Beta parameter"),
        ({"model": "resnet19"}, "unknown model"),
        ({"data": Path("nowhere")}, "there is no folder nowhere"),
    ],
)
def test_what_only_data_and_model_can_tell_is_refused_too(changes, message):
    with pytest.raises(ValueError, match=message):
        open_grid(CompareConfig(**changes))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("1.5h", 5400), ("2 h", 7200)])
def test_budgets(text, seconds):
    assert budget_seconds(text) == seconds


def test_the_budget_decides_the_epochs():
    config = CompareConfig(mixers="none,cutmix", seeds=3, budget="10m", jobs=2)
    paces = [Pace("none", epoch=2.0, once=10.0), Pace("cutmix", epoch=3.0, once=15.0)]
    epochs = epochs_in_budget(config, paces)
    assert grid_seconds(config, paces, epochs) <= 600 < grid_seconds(config, paces, epochs + 1)
    assert grid_seconds(config, paces, 4) == 3 * (10 + 8 + 15 + 12) / 2
    with pytest.raises(ValueError, match="too short"):
        epochs_in_budget(dataclasses.replace(config, budget="30s"), paces)


def test_a_run_is_a_fit_config():
    assert isinstance(TWO.run_config("gentle", 1), ClassificationSettings)
