"""The end of a run: averaged weights, cooldown, early stopping; binary cross-entropy for single labels."""

import json
import math
from dataclasses import replace

import pytest
import timm.scheduler
import torch
from lightning import Callback
from test_resume import EPOCHS, STEPS, Signalled, config, gone_on, resumed, same, trained
from torch import nn

from recursivemix import load
from recursivemix.cli import main
from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.checkpoints import StoppedError
from recursivemix.training.fit import fit
from recursivemix.training.optimizer import OptimizerSettings, scheduled_factor
from recursivemix.training.prepare import prepare
from recursivemix.training.resume import ResumeError


class EndsOfEpochs(Callback):
    """Keeps the trained weights after the last step of each epoch, and those that are evaluated."""

    def __init__(self):
        self.trained, self.evaluated = [], []

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.is_last_batch:
            self.trained.append({k: v.clone() for k, v in module.state_dict().items()})

    def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0):
        if index == dataloader_idx == 0:
            self.evaluated.append({k: v.clone() for k, v in module.state_dict().items()})


class GivenScores(Callback):
    """Replaces the accuracy of each epoch."""

    def __init__(self, values):
        self.values = iter(values)

    def on_fit_start(self, trainer, module):
        compute = module.scores.compute
        module.scores.compute = lambda: compute() | {"acc1": torch.tensor(next(self.values))}


@pytest.mark.parametrize(("values", "best"), [([math.nan, 40.0, 30.0], 1), ([20.0, math.nan, 10.0], 0)])
def test_a_score_that_is_no_number_is_never_the_best(image_root, tmp_path, values, best):
    run = config(image_root, tmp_path / "run", epochs=3)
    result = fit(prepare(run, [GivenScores(values)], {}))
    assert (result.best, result.best_epoch) == (values[best], best + 1)
    stored = torch.load(run.out / "checkpoints" / "best.ckpt", weights_only=True)
    assert stored["epoch"] == best


def mean_of(states):
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0)
        for name, value in states[0].items()
        if value.is_floating_point()
    }


def test_the_average_is_that_of_the_last_epochs(image_root, tmp_path):
    ends = EndsOfEpochs()
    run = config(image_root, tmp_path / "run", epochs=4, average_last=2)
    fit(prepare(run, [ends], {}))
    last = torch.load(run.out / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in mean_of(ends.trained[2:]).items():
        torch.testing.assert_close(last["state_dict"][name].double(), value, rtol=1e-5, atol=1e-6)
        assert torch.equal(ends.evaluated[3][name], last["state_dict"][name])
        assert torch.equal(ends.evaluated[1][name], ends.trained[1][name])  # before: the weights themselves
        assert torch.equal(ends.evaluated[2][name], ends.trained[2][name])  # the first of the two alone
        assert torch.equal(last["current_model_state"][name], ends.trained[3][name])
    network = load(run.out / "checkpoints" / "last.ckpt").network.state_dict()
    assert torch.equal(network["fc.weight"], last["state_dict"]["network.backbone.fc.weight"])


@pytest.mark.parametrize("batch", [STEPS + 3, STEPS, 2 * STEPS, 2 * STEPS + 1], ids=str)
def test_the_average_is_resumed(batch, images, uninterrupted, tmp_path):
    whole, _ = uninterrupted(average_last=2)
    same(whole, resumed(config(images, tmp_path / "parts", average_last=2), batch))


def test_an_average_of_one_epoch_is_the_last_epoch(images, uninterrupted, tmp_path):
    plain, _ = uninterrupted()
    average = trained(config(images, tmp_path / "average", average_last=1))
    same(plain["state_dict"], average["state_dict"])


# -- early stopping ------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """Runs whose accuracy is given by epoch."""
    scores = [10.0, 30.0, 20.0, 30.0, 25.0, 60.0]

    def log_score(module):
        module.log("acc1", scores[module.current_epoch])

    monkeypatch.setattr(MixedClassifier, "on_validation_epoch_end", log_score)


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 5), (4, 6)])
def test_it_stops_when_the_score_does_not_improve(patience, epochs, scripted, image_root, tmp_path):
    run = config(image_root, tmp_path / "run", epochs=6, early_stop=patience, mixer="none")
    result = fit(prepare(run, [], {}))
    assert len(result.rows) == epochs
    assert result.best_epoch == (6 if epochs == 6 else 2)
    record = json.loads((run.out / "record.json").read_text())
    assert len(record["epochs"]) == epochs


@pytest.mark.parametrize("batch", [STEPS + 3, 4 * STEPS - 1, 3 * STEPS], ids=str)
def test_stopping_is_resumed(batch, scripted, images, uninterrupted, tmp_path):
    settings = {"epochs": 6, "early_stop": 2, "mixer": "none"}
    whole, _ = uninterrupted(**settings)
    same(whole, resumed(config(images, tmp_path / "parts", **settings), batch))
    assert whole["epoch"] == 3


def test_a_run_that_stopped_early_is_finished(scripted, image_root, tmp_path):
    run = config(image_root, tmp_path / "run", epochs=6, early_stop=2, mixer="none")
    trained(run)
    last = run.out / "checkpoints" / "last.ckpt"
    with pytest.raises(ResumeError, match="--early-stop ended it after epoch 4"):
        prepare(run, [], {}, resume=last)
    with pytest.raises(ResumeError, match="another --early-stop"):
        prepare(replace(run, epochs=9), [], {}, resume=last, changed=True)
    longer = config(image_root, run.out, epochs=6, early_stop=5, mixer="none")
    result = fit(prepare(longer, [], {}, resume=last, changed=True))
    assert len(result.rows) == 6


def test_a_run_that_stopped_early_and_lost_its_record_writes_it(scripted, image_root, tmp_path):
    """As after a kill between the last checkpoint and the record: nothing is trained."""
    run = config(image_root, tmp_path / "run", epochs=6, early_stop=2, mixer="none")
    whole, file = trained(run), run.out / "record.json"
    records = [json.loads(file.read_text())]
    file.unlink()
    same(whole, gone_on(run))
    records.append(json.loads(file.read_text()))
    for record in records:
        del record["date"], record["peak_memory_bytes"]
    assert records[0] == records[1]


@pytest.mark.parametrize("settings", [{"ema_decay": 0.5}, {"average_last": 2}], ids=str)
def test_what_draws_at_the_end_gets_the_average(settings, image_root, tmp_path):
    """Also if nothing but the record is left to do."""
    run, states = config(image_root, tmp_path / "run", epochs=2, **settings), []

    def keep(prepared):
        states.append({name: value.clone() for name, value in prepared.learner.state_dict().items()})

    fit(prepare(run, [], {}), keep)
    (run.out / "record.json").unlink()
    last = run.out / "checkpoints" / "last.ckpt"
    fit(prepare(run, [], {}, resume=last), keep)
    content = torch.load(last, weights_only=True)
    assert not torch.equal(
        content["state_dict"]["network.backbone.conv1.weight"],
        content["current_model_state"]["network.backbone.conv1.weight"],
    )
    same(states[0], content["state_dict"])
    same(states[1], content["state_dict"])


# -- cooldown -----------------------------------------------------------------------------------------


def test_cooldown_is_timms():
    """Reference: timm's cosine schedule in epochs, which keeps ``lr_min`` after its end."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = timm.scheduler.CosineLRScheduler(optimizer, t_initial=14, lr_min=0.01)
    expected = []
    for epoch in range(20):
        scheduler.step(epoch)
        expected.append(optimizer.param_groups[0]["lr"])
    settings = OptimizerSettings(lr=0.4, min_lr=0.01, cooldown_epochs=6, warmup_epochs=0)
    found = [0.4 * scheduled_factor(settings, epoch, 20, 20) for epoch in range(20)]
    assert found == pytest.approx(expected)
    assert set(expected[14:]) == {0.01}


def test_warm_up_starts_from_zero_also_with_a_least_rate():
    settings = OptimizerSettings(lr=0.4, min_lr=0.2, warmup_epochs=2)
    rates = [0.4 * scheduled_factor(settings, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 / 20)
    assert rates[19] == pytest.approx(0.4)
    assert 0.2 < rates[-1] < 0.21


def test_cooldown_is_resumed(image_root, tmp_path):
    settings = {"min_lr": 0.01, "cooldown_epochs": 1.5, "mixer": "cutmix"}
    whole = trained(config(image_root, tmp_path / "whole", **settings))
    same(whole, resumed(config(image_root, tmp_path / "parts", **settings), 2 * STEPS + 1))
    rates = [row["lr"] for row in whole["callbacks"]["EpochLog"]["rows"]]
    assert rates[EPOCHS - 1] == pytest.approx(0.01)


# -- binary cross-entropy ----------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["none", "cutmix", "recursivemix"])
def test_binary_cross_entropy_with_the_mixed_labels(mixer, image_root, tmp_path):
    """Twin: torch's binary cross-entropy, a mean over images and classes."""
    run = prepare(config(image_root, tmp_path / "run", bce=True, mixer=mixer, epochs=1), [], {})
    mixer = run.learner.mixer
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    batch = mixer(images, labels, indices=torch.arange(4))
    logits = torch.randn(4, 3)
    found = mixer.label_loss(logits, batch)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, batch.targets)
    torch.testing.assert_close(found, expected)
    result = fit(run)
    assert {"acc1", "acc_mixed"} <= result.rows[0].keys()


def test_binary_cross_entropy_is_resumed(image_root, tmp_path):
    same(
        trained(config(image_root, tmp_path / "whole", bce=True)),
        resumed(config(image_root, tmp_path / "parts", bce=True), STEPS + 3),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average_last": 31}, "--average-last must be at most --epochs 30"),
        ({"average_last": 0}, "--average-last must be at least 1"),
        ({"average_last": 2, "ema_decay": 0.9}, "both average the weights"),
        ({"average_last": 2, "early_stop": 3}, "leave out --early-stop"),
        ({"early_stop": 0}, "--early-stop must be at least 1"),
        ({"cooldown_epochs": 3}, "--cooldown-epochs needs a learning rate"),
        ({"cooldown_epochs": 30, "min_lr": 1e-5}, "must be less"),
        ({"min_lr": 1e-5, "schedule": "constant"}, "not constant"),
        ({"min_lr": 1.0}, "--min-lr must be at most --lr"),
        ({"bce": True, "mixer_options": {"loss": "ce"}}, "give one"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassificationSettings(**settings)


def test_the_result_says_which_weights_were_measured(image_root, tmp_path, capsys):
    options = [
        "--epochs",
        "2",
        "--average-last",
        "2",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--batch-size",
        "12",
    ]
    assert main(["fit", "--data", str(image_root), *options, "--out", str(tmp_path / "run")]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "average of the last 2 epochs" in printed


def test_stopped_in_the_epoch_in_which_it_would_stop_early(scripted, images, uninterrupted, tmp_path):
    settings = {"epochs": 6, "early_stop": 2, "mixer": "none"}
    whole, _ = uninterrupted(**settings)
    run = config(images, tmp_path / "run", **settings)
    with pytest.raises(StoppedError):
        fit(prepare(run, [Signalled(4 * STEPS - 2)], {}))
    same(whole, gone_on(run))
