"""Backbones: maps of images of any size, weights from what people have, and what is trained of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from recursivemix.cli import main
from recursivemix.models.trained import load
from recursivemix.tasks.backbone import Backbone, new_backbone, prepare_norms
from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.settings import DetectionSettings
from recursivemix.tasks.transfer import resolved

MODELS = {
    "resnet18": (4, 8, 16, 32),
    "resnet20": (2, 4),
    "wrn10_2": (2, 4),
    "vit_tiny_patch16_224": (4, 8, 16, 32),
    "swin_tiny_patch4_window7_224": (4, 8, 16, 32),
    "convnext_atto": (4, 8, 16, 32),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two steps of `fit` on the digits."""
    out = tmp_path_factory.mktemp("backbone") / "run"
    words = ["fit", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--precision", "32"]
    short = ["--trainer.limit-train-batches", "2", "--trainer.limit-val-batches", "1"]
    assert main([*words, *short, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("model", MODELS)
def test_maps_of_any_size(model):
    backbone = load_backbone("random", model).backbone
    assert backbone.strides == MODELS[model]
    images = torch.randn(2, 3, 96, 160)
    maps = backbone(images)
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    for stride, m in zip(backbone.strides, maps, strict=True):
        assert m.shape[-2:] == (96 // stride, 160 // stride)
    assert sum(m.mean() for m in maps).requires_grad


@pytest.mark.parametrize("model", MODELS)
def test_every_trained_parameter_gets_a_gradient(model):
    backbone = load_backbone("random", model).backbone.train()
    torch.stack([m.square().sum() for m in backbone(torch.randn(2, 3, 64, 64))]).sum().backward()
    lacking = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []


def test_maps_are_the_networks_own():
    """Against timm's own feature extractor, of the same weights."""
    torch.manual_seed(0)
    loaded = load_backbone("random", "resnet18")
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict(loaded.backbone.network.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, other in zip(loaded.backbone.eval()(images), theirs(images), strict=True):
            torch.testing.assert_close(ours, other)


def test_a_checkpoint_of_fit(run):
    loaded = load_backbone(str(run / "checkpoints" / "last.ckpt"))
    assert (loaded.model, loaded.matched, loaded.settings["image_size"]) == ("resnet20", loaded.total, 32)
    trained = load(run / "checkpoints" / "last.ckpt")
    own = loaded.backbone.network.state_dict()
    for key, value in trained.network.state_dict().items():
        assert key.startswith("fc.") or torch.equal(value, own[key])
    assert loaded.mean == pytest.approx(trained.preprocessing.mean)
    assert f"{loaded.total} of its {loaded.total} keys match" in str(loaded)


def test_plain_files_of_weights(tmp_path):
    network = timm.create_model("resnet18", num_classes=7)
    weights = network.state_dict()
    files = {"a.pth": weights, "b.pth": {"state_dict": {f"module.{k}": v for k, v in weights.items()}}}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "c.safetensors")
    for name in (*files, "c.safetensors"):
        loaded = load_backbone(str(tmp_path / name), "resnet18")
        assert loaded.matched == loaded.total == len(weights) - 2  # without its classifier
        own = loaded.backbone.network.state_dict()
        assert torch.equal(own["layer3.1.conv2.weight"], weights["layer3.1.conv2.weight"])


def test_another_network_is_refused(tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"keys match.*at least 95% must match"):
        load_backbone(str(tmp_path / "a.pth"), "resnet50")


def test_a_file_that_does_not_say_its_network(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="add --model"):
        load_backbone(str(tmp_path / "a.pth"))


def test_a_run_folder_or_another_network_in_place_of_a_checkpoint(checkpoint):
    run = checkpoint.parent.parent
    with pytest.raises(ValueError, match="is of test_byobnet, --model is resnet18: leave --model out"):
        load_backbone(str(checkpoint), "resnet18")
    with pytest.raises(ValueError, match=f"there is no file {run}; intact checkpoints .*{checkpoint}"):
        load_backbone(str(run))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere/last.ckpt", "there is no file"),
        ("resnetty", "neither a file nor a timm model"),
        ("resnet18", "add --download"),
        ("random", "maxvit_tiny_tf_224 cannot be a backbone here, where .*: "),
    ],
)
def test_what_is_not_there(source, words):
    with pytest.raises(ValueError, match=words):
        load_backbone(source, "maxvit_tiny_tf_224" if source == "random" else None)


def test_a_damaged_file(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_backbone(str(tmp_path / "a.pth"), "resnet18")


def test_a_small_images_network_keeps_its_stem():
    settings = load_backbone("random", "resnet18").settings | {"image_size": 32}
    assert new_backbone(settings).backbone.strides == (4, 8)


# -- what is trained -------------------------------------------------------------------------------


def made(policy, stages) -> Backbone:
    backbone = load_backbone("random", "resnet18").backbone
    prepare_norms(backbone, policy, stages)
    return backbone


def train_a_step(backbone):
    """The names of parameters and of statistics that a step in training mode changed."""
    backbone.train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    images = 3 + torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.stack([m.square().mean() for m in backbone(images)]).sum().backward()
    optimizer.step()
    return {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}


def is_statistic(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize(
    ("policy", "statistics", "affine"),
    [("train", True, True), ("statistics", False, True), ("frozen", False, False)],
)
def test_policies_of_batch_norm(policy, statistics, affine):
    changed = train_a_step(made(policy, 0))
    assert any(is_statistic(name) for name in changed) == statistics
    assert ("network.layer2.0.bn2.bias" in changed) == affine
    assert "network.layer2.0.downsample.0.weight" in changed


def test_frozen_stages():
    changed = train_a_step(made("train", 1))
    fixed = ("network.conv1", "network.bn1", "network.layer1")
    assert not [name for name in changed if name.startswith(fixed)]
    assert "network.layer2.0.downsample.0.weight" in changed
    assert "network.layer2.0.bn1.running_mean" in changed


def test_more_stages_than_there_are():
    with pytest.raises(ValueError, match="0 to 4"):
        made("train", 5)
    with pytest.raises(ValueError, match="--frozen-stages must be 0 for this backbone, got 1"):
        prepare_norms(load_backbone("random", "vit_tiny_patch16_224").backbone, "train", 1)


@pytest.mark.parametrize(
    ("model", "stages"), [("resnet18", 1), ("resnet20", 0), ("vit_tiny_patch16_224", 0)]
)
def test_most_of_a_trained_backbone_is_trained_by_default(model, stages):
    loaded = replace(load_backbone("random", model), pretrained=True)
    used = trainable(loaded.backbone)
    settings = resolved(DetectionSettings(), loaded, detects=True)
    assert settings.frozen_stages == stages
    prepare_norms(loaded.backbone, settings.norm, settings.frozen_stages)
    assert trainable(loaded.backbone) > 0.9 * used


def trainable(backbone):
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)
