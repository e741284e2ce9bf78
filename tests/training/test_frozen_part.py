"""Frozen parts, layer-wise learning rates and dropout in fine-tuning, with and without a region head."""

import pytest
import timm
import torch
from lightning import Callback
from test_resume import STEPS, config, resumed, same, trained
from timm.optim import param_groups_layer_decay
from torch import nn

from recursivemix.cli import main
from recursivemix.models.create import create_model
from recursivemix.models.small import MODELS
from recursivemix.models.stages import classifier_names, frozen_names, layers_of
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
from samples import FAST

TINY = "test_resnet"
SHORT = {"model": TINY, "image_size": 32, "epochs": 2}


class Watches(Callback):
    """Keeps the weights at the start of every epoch, and at the end."""

    def __init__(self):
        self.states, self.rates = [], []

    def keep(self, module):
        self.states.append({k: v.clone() for k, v in module.network.state_dict().items()})

    def on_train_epoch_start(self, trainer, module):
        self.keep(module)

    def on_train_batch_end(self, trainer, module, *args):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_end(self, trainer, module):
        self.keep(module)

    def changed(self, epoch):
        """Names of the parameters and statistics that an epoch changed, as the backbone knows them."""
        before, after = self.states[epoch : epoch + 2]
        names = {name for name, value in after.items() if not torch.equal(value, before[name])}
        return {name.removeprefix("backbone.") for name in names}


def watched(run_config):
    watches = Watches()
    fit(prepare(run_config, [watches], {}))
    return watches


@pytest.mark.parametrize("mixer", ["none", "recursivemix"])
def test_only_the_classifier_is_trained(mixer, image_root, tmp_path):
    watches = watched(config(image_root, tmp_path / "run", freeze="backbone", mixer=mixer, **SHORT))
    heads = {"fc.weight", "fc.bias"}
    heads |= {"region_head.weight", "region_head.bias"} if mixer == "recursivemix" else set()
    assert [watches.changed(epoch) for epoch in range(2)] == [heads, heads]


@pytest.mark.parametrize("freeze", [1, "conv1,bn1,layer1"])
def test_stages_stay_with_their_statistics(freeze, image_root, tmp_path):
    watches = watched(config(image_root, tmp_path / "run", freeze=freeze, **SHORT))
    changed = watches.changed(0) | watches.changed(1)
    assert not [name for name in changed if name.startswith(("conv1", "bn1", "layer1"))]
    assert {name.partition(".")[0] for name in changed} >= {"layer2", "layer3", "layer4", "fc"}
    assert any(name.startswith("layer2") and name.endswith("running_mean") for name in changed)


def test_the_backbone_is_trained_from_an_epoch_on(image_root, tmp_path):
    options = SHORT | {"epochs": 3, "freeze": "backbone", "unfreeze_epoch": 1, "mixer": "none"}
    watches = watched(config(image_root, tmp_path / "run", **options))
    assert watches.changed(0) == {"fc.weight", "fc.bias"}
    every = set(watches.states[0])
    assert every - watches.changed(1) <= {name for name in every if name.endswith("bias")}


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": "backbone", "unfreeze_epoch": 1},
        {"freeze": 2, "layer_decay": 0.7, "head_lr": 0.1},
        {"drop": 0.3, "drop_path": 0.2, "decay_norms": False, "layer_decay": 0.5, "optimizer": "adamw"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_resumed(settings, image_root, tmp_path):
    options = SHORT | {"epochs": 3} | settings
    same(
        trained(config(image_root, tmp_path / "whole", **options)),
        resumed(config(image_root, tmp_path / "parts", **options), STEPS + 3),
    )


@pytest.mark.parametrize("name", [TINY, "test_vit", "test_convnext", "test_efficientnet"])
def test_layer_decay_is_timms(name, image_root, tmp_path):
    """Reference: timm's parameter groups, whose ``lr_scale`` its training script multiplies with."""
    options = {"model": name, "layer_decay": 0.6, "decay_norms": False, "optimizer": "adamw", "lr": 0.01}
    learner = prepare(config(image_root, tmp_path / "run", **options), [], {}).learner
    network = learner.inference_network
    no_decay = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    expected = {}
    for group in param_groups_layer_decay(network, 5e-4, no_decay, layer_decay=0.6):
        for parameter in group["params"]:
            expected[parameter] = (0.01 * group["lr_scale"], group["weight_decay"])
    optimizer = learner_optimizer(learner)
    found = {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for parameter_name, parameter in network.named_parameters():
        assert found[parameter] == pytest.approx(expected[parameter]), parameter_name
    assert found[learner.network.region_head.weight] == pytest.approx((0.01, 5e-4))
    assert len(found) == len(list(learner.network.parameters()))


def learner_optimizer(learner):
    from recursivemix.training.optimizer import create_optimizer

    return create_optimizer(learner.network, learner.settings, rates=learner.rates())


def test_the_learning_rate_of_the_heads(image_root, tmp_path):
    options = SHORT | {"head_lr": 0.5, "lr": 0.01, "epochs": 1}
    run = prepare(config(image_root, tmp_path / "run", **options), [], {})
    network = run.learner.network
    heads = {*network.backbone.fc.parameters(), *network.region_head.parameters()}
    for group in learner_optimizer(run.learner).param_groups:
        assert {parameter in heads for parameter in group["params"]} == {group["lr"] == 0.5}
    watches = Watches()
    run.trainer.callbacks.insert(0, watches)
    result = fit(run)
    ratios = {round(max(rates) / min(rates), 6) for rates in watches.rates if min(rates)}
    assert ratios == {50.0}  # both follow the schedule
    assert result.rows[0]["lr"] <= 0.01


def test_dropout_reaches_the_network(image_root, tmp_path):
    options = {"model": TINY, "drop": 0.4, "drop_path": 0.3}
    network = prepare(config(image_root, tmp_path / "run", **options), [], {}).learner.inference_network
    assert network.drop_rate == 0.4
    paths = [module.drop_prob for module in network.modules() if type(module).__name__ == "DropPath"]
    assert max(paths) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["resnet20", "wrn16_4", "pyramidnet164_270", "resnet18_stride2_16"])
def test_networks_that_timm_lacks_have_stages(name):
    network = create_model(name, 3, 32)
    layers = layers_of(network, coarse=True)
    assert layers["conv1.weight"] == 0
    assert layers["layer1.0.conv1.weight"] == 1
    assert layers["layer3.0.conv1.weight"] == 3
    assert len(set(layers_of(network).values())) > 5
    frozen = frozen_names(network, "1")
    assert {part.partition(".")[0] for part in frozen} <= {"conv1", "bn1", "layer1"}
    assert classifier_names(network) == {"fc.weight", "fc.bias"}
    assert name in MODELS


def test_distilled_networks_have_two_classifiers():
    network = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32)
    assert {name.partition(".")[0] for name in classifier_names(network)} == {"head", "head_dist"}
    assert isinstance(network.get_classifier(), (tuple, nn.ModuleList))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--freeze", "nothing"], "this network has no 'nothing'"),
        (["--freeze", "9"], "--freeze must be 1 to 3 stages"),
        (["--freeze", "0"], "--freeze must be 1 to 3 stages"),
        (["--drop-path", "0.1"], "--drop-path does not apply to resnet20: leave it out; where"),
        (["--drop", "0.1"], "--drop does not apply to resnet20: leave it out; where a recipe sets it, add"),
        (["--drop-path", "0.1", "--model", "vgg11"], "--drop-path does not apply to vgg11: leave it out;"),
        (["--mixer", "none", "--freeze", "conv1,bn1,layer1,layer2,layer3,fc"], "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen(options, message, image_root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "--data", str(image_root), *FAST, "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze_epoch": 1}, "--unfreeze-epoch needs --freeze"),
        ({"freeze": "backbone", "unfreeze_epoch": 30}, "must be < --epochs 30"),
        ({"layer_decay": 0.0}, "--layer-decay must be in"),
        ({"head_lr": 0.0}, "--head-lr must be > 0"),
        ({"drop": 1.0}, "--drop must be in"),
        ({"drop_path": -0.1}, "--drop-path must be in"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassificationSettings(**settings)
