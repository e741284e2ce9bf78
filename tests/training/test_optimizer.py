"""Learning rate, parameter groups, label smoothing, accumulation, average: against independent twins."""

import math
from itertools import pairwise

import pytest
import timm
import torch
from test_resume import STEPS, config
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from recursivemix import MIXERS, RecursiveMix, RegionModel, create_mixer
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.devices import lightning_precision, precision_notes
from recursivemix.training.fit import fit
from recursivemix.training.optimizer import (
    OptimizerSettings,
    check_optimizer,
    create_optimizer,
    lr_factor,
    schedule_notes,
)
from recursivemix.training.prepare import prepare


def rates_of(scheduler, optimizer, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:.*epoch parameter in.*")
def test_cosine_with_warm_up_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rise = LinearLR(optimizer, start_factor=1 / 5, end_factor=1.0, total_iters=4)
    fall = CosineAnnealingLR(optimizer, T_max=95)
    expected = rates_of(SequentialLR(optimizer, [rise, fall], [5]), optimizer, 100)
    assert [lr_factor(step, 100, 5) for step in range(100)] == pytest.approx(expected)
    assert lr_factor(100, 100, 5) == 0


def test_steps_are_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    expected = rates_of(MultiStepLR(optimizer, [30, 60, 80], gamma=0.2), optimizer, 100)
    found = [lr_factor(step, 100, 0, "step", [0.3, 0.6, 0.8], 0.2) for step in range(100)]
    assert found == pytest.approx(expected)


def test_the_papers_warm_up():
    """Five epochs of warm-up; by step, the last of them is at the peak."""
    rates = [lr_factor(step, 3000, 50) for step in range(52)]
    assert rates[0] == pytest.approx(1 / 50)
    assert rates[49] == rates[50] == 1.0
    assert all(a < b for a, b in pairwise(rates[:50]))
    assert {lr_factor(step, 30, 3, "constant") for step in range(3, 30)} == {1.0}


def network():
    return RegionModel(timm.create_model("resnet18", num_classes=4), image_size=(64, 64))


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "lamb", "lion"])
def test_every_parameter_is_trained(name):
    model = network()
    optimizer = create_optimizer(model, OptimizerSettings(name, lr=0.1, weight_decay=0.05))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters()}
    assert len(trained) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05}
    if name in ("sgd", "momentum"):
        assert {group["nesterov"] for group in optimizer.param_groups} == {name == "sgd"}


def test_no_decay_on_norms_and_biases():
    model = network()
    optimizer = create_optimizer(
        model, OptimizerSettings("sgd", lr=0.1, weight_decay=0.05, decay_norms=False)
    )
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (parameter.dim() > 1), name
    transformer = RegionModel(timm.create_model("vit_tiny_patch16_224", num_classes=4))
    optimizer = create_optimizer(
        transformer, OptimizerSettings("adamw", lr=0.1, weight_decay=0.05, decay_norms=False)
    )
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert id(transformer.backbone.pos_embed) not in decayed  # the backbone's own wish
    assert id(transformer.region_head.weight) in decayed


def test_options_reach_the_optimiser_or_are_refused():
    optimizer = create_optimizer(network(), OptimizerSettings("adamw", {"betas": (0.8, 0.9)}, lr=0.1))
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    with pytest.raises(ValueError, match="optimizer-options of adamw"):
        create_optimizer(network(), OptimizerSettings("adamw", {"beta": 1}, lr=0.1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sgdd", {}, "--optimizer sgdd is unknown"),
        ("adahessian", {}, "--optimizer adahessian needs second derivatives"),
        ("fusedlamb", {}, "--optimizer fusedlamb: "),  # without APEX
        ("sgd", {"beta": 1}, "--optimizer-options of sgd: .* argument 'beta'"),
        ("adamw", {"betas": (2.0, 0.9)}, "--optimizer-options of adamw: Invalid beta"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_before_the_run(name, options, message, tmp_path):
    check_optimizer(OptimizerSettings())  # without a learning rate yet
    with pytest.raises(ValueError, match=message):
        prepare(ClassificationSettings(optimizer=name, optimizer_options=options, out=tmp_path / "run"))


@pytest.mark.parametrize("name", MIXERS)
def test_label_smoothing_is_torchs(name):
    """Reference: torch's cross-entropy with ``label_smoothing`` on the same mixed targets."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    mixer = create_mixer(name, 5, model, label_smoothing=0.1)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    batch = mixer(torch.rand(6, 3, 8, 8), labels, indices=torch.arange(6))
    logits = torch.randn(6, 5)
    found = mixer.label_loss(logits, batch)
    expected = nn.functional.cross_entropy(logits, batch.targets, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)
    assert (batch.targets == 0).any()  # the targets themselves stay shares of pixels


def test_smoothing_leaves_the_consistency_alone():
    logits, region_logits = torch.randn(2, 6, 5).unbind()
    losses = []
    for smoothing in (0.0, 0.3):
        mixer = RecursiveMix(5, label_smoothing=smoothing)
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 6, 3, 16, 16, generator=generator)
        labels = torch.arange(6) % 5
        mixer.remember(mixer(images[0], labels), logits)
        losses.append(mixer.losses(logits, mixer(images[1], labels), region_logits))
    assert losses[0]["consistency"] == losses[1]["consistency"]
    assert losses[0]["label"] != losses[1]["label"]


def plain_loop(run, epochs, window, average=None):
    """A loop written out: mean over the images of each window, SGD, cosine; no Lightning."""
    module = run.learner
    loading = run.loaders.loading
    loading.fill_cache()
    data, batches = loading.data, []
    from recursivemix.data.batches import TrainingBatches
    from recursivemix.data.order import TrainingOrder

    epoch_of = {"now": 0}
    loader = TrainingBatches(
        data.train, TrainingOrder(len(data.train), 5, 4), loading.augmentation,
        lambda: epoch_of["now"], device=torch.device("cpu"), hold=True,
    )  # fmt: skip
    network = module.network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = math.ceil(len(loader) / window)
    total, warmup, step, shadow = epochs * steps, round(0.05 * epochs * steps), 0, None
    for epoch in range(epochs):
        epoch_of["now"] = epoch
        batches = list(loader)
        for start in range(0, len(batches), window):
            part = batches[start : start + window]
            images = sum(len(labels) for _, labels, _ in part)
            optimizer.zero_grad()
            for pixels, labels, _ in part:
                (nn.functional.cross_entropy(network(pixels), labels, reduction="sum") / images).backward()
            rate = (step + 1) / warmup if step < warmup else 0.5 * (
                1 + math.cos(math.pi * (step - warmup) / (total - warmup))
            )  # fmt: skip
            optimizer.param_groups[0]["lr"] = 0.05 * rate
            optimizer.step()
            step += 1
            if average is not None:
                now = {k: v.clone() for k, v in network.state_dict().items()}
                shadow = now if shadow is None else {
                    k: average * shadow[k] + (1 - average) * v if v.is_floating_point() else shadow[k]
                    for k, v in now.items()
                }  # fmt: skip
    return network.state_dict() if average is None else shadow


@pytest.mark.parametrize(("window", "average"), [(1, None), (3, None), (3, 0.9)])
def test_training_is_that_of_a_plain_loop(image_root, tmp_path, window, average):
    """36 images in batches of 5: the last window of an epoch holds 6 images, the full ones 15."""
    settings = {"mixer": "none", "epochs": 2, "grad_accum_steps": window, "ema_decay": average}
    expected = plain_loop(
        prepare(config(image_root, tmp_path / "plain", **settings), [], {}), 2, window, average
    )
    run = prepare(config(image_root, tmp_path / "run", **settings), [], {})
    fit(run)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2 * math.ceil(STEPS / window)
    for name, value in expected.items():
        if value.is_floating_point():
            found = last["state_dict"][f"network.{name}"]
            torch.testing.assert_close(
                found, value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_mixing_starts_and_stops(image_root, tmp_path):
    from lightning import Callback

    class Sees(Callback):
        def __init__(self):
            self.mixed = {}

        def on_train_epoch_start(self, trainer, module):
            module.watch = lambda batch: self.mixed.setdefault(trainer.current_epoch, []).append(
                bool((batch.lam < 1).any())
            )

    sees = Sees()
    settings = {"epochs": 4, "mix_start": 1, "mix_stop": 3}
    fit(prepare(config(image_root, tmp_path / "run", **settings), [sees], {}))
    assert [any(sees.mixed[epoch]) for epoch in range(4)] == [False, True, True, False]


def test_mixing_in_place(image_root, tmp_path):
    """By default mixing writes into the images of the loader; the result is the same as with a copy."""
    from lightning import Callback

    class Sees(Callback):
        def __init__(self):
            self.inplace = []

        def on_train_epoch_start(self, trainer, module):
            module.watch = lambda batch: setattr(self, "mixed", batch)

        def on_train_batch_end(self, trainer, module, outputs, batch, step):
            if (self.mixed.lam < 1).all():
                self.inplace.append(self.mixed.images is batch.images)

    results = []
    for options in ({}, {"inplace": False}):
        sees = Sees()
        settings = config(image_root, tmp_path / f"run{len(results)}", epochs=2, mixer_options=options)
        run = prepare(settings, [sees], {})
        fit(run)
        assert len(sees.inplace) > 1
        assert set(sees.inplace) == {options == {}}
        results.append(run.learner.state_dict())
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


def test_what_a_schedule_does_not_reach_is_said():
    step = OptimizerSettings(schedule="step", milestones=[2, 3, 4.5], warmup_epochs=3)
    assert schedule_notes(step, 5) == []
    late, warmup = schedule_notes(step, 3)
    assert "the run ends after 3 epochs, before 3, 4.5" in late
    assert "--warmup-epochs 3 fill all 3 epochs" in warmup
    assert schedule_notes(OptimizerSettings(), 1) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix_start": 3, "mix_stop": 3}, "--mix-stop must be > --mix-start 3"),
        ({"mix_start": 30}, "--mix-start must be < --epochs 30, got 30"),
        ({"schedule": "step"}, "belong together"),
        ({"milestones": [3]}, "belong together"),
        ({"ema_decay": 1.0}, "--ema-decay must be in"),
        ({"label_smoothing": 1.0}, "--label-smoothing"),
        ({"sync_batchnorm": True, "device": "cpu"}, "needs GPUs"),
        ({"label_smoothing": -0.1}, "--label-smoothing"),
        ({"grad_accum_steps": 0}, "--grad-accum-steps must be at least 1"),
        ({"lr": math.nan}, "--lr must be > 0, got nan"),
        ({"lr": math.inf}, "--lr must be > 0, got inf"),
        ({"weight_decay": math.nan}, "--weight-decay must be at least 0, got nan"),
        ({"std": (math.nan, 0.5, 0.5)}, "--std must be > 0"),
        ({"head_lr": math.nan}, "--head-lr must be > 0"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassificationSettings(**settings)


def test_precision_by_name():
    assert lightning_precision("32", "cpu") == "32-true"
    assert lightning_precision("bf16", "cpu") == "bf16-mixed"
    assert lightning_precision("auto", "cpu") in ("bf16-mixed", "32-true")


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_without_instructions_for_it_is_named(monkeypatch, has_bf16):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert lightning_precision("auto", "cpu") == ("bf16-mixed" if has_bf16 else "32-true")
    assert [len(precision_notes(name, "cpu")) for name in ("bf16", "auto", "32")] == [not has_bf16, 0, 0]
