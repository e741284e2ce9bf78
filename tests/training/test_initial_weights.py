"""Trained weights that a run starts from: files of timm, torchvision, runs and exports; timm's cache."""

import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from test_resume import Signalled, config, gone_on, same, trained

from recursivemix import load
from recursivemix.cli import main
from recursivemix.models.create import create_model
from recursivemix.models.pretrained import StoredWeights, load_weights, read_weights
from recursivemix.tasks import initial_weights
from recursivemix.training.checkpoints import StoppedError
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
from samples import FAST

TINY = "test_resnet"
"""A network of timm with 0.5 M weights."""


def contiguous(network):
    return {name: value.clone().contiguous() for name, value in network.state_dict().items()}


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file(contiguous(timm.create_model(TINY)), path)
    return path


def first_steps(run_config):
    """The network as prepared, before any step."""
    return prepare(run_config, [], {}).learner


def test_weights_of_timm_and_their_preprocessing(image_root, tmp_path, tiny_file):
    learner = first_steps(config(image_root, tmp_path / "run", model=TINY, weights=tiny_file))
    wanted = read_weights(tiny_file).tensors
    network = learner.inference_network.state_dict()
    for name, value in wanted.items():
        assert torch.equal(network[name], value) == (not name.startswith("fc."))
    timms = timm.get_pretrained_cfg(TINY)
    data = learner.hparams["data"]
    assert learner.hparams["image_size"] == timms.input_size[-1] == 160
    assert (data["mean"], data["std"]) == (list(timms.mean), list(timms.std))
    assert (data["interpolation"], data["resize"]) == (timms.interpolation, int(160 / timms.crop_pct))
    record = learner.record()["weights"]
    assert record["keys_matched"] == record["keys"] == len(wanted) - 2
    assert record["classifier"] == "new"
    assert "the classifier is new" in learner.notes[0]
    assert f"{len(wanted) - 2} of {len(wanted) - 2} keys match" in learner.notes[0]


def test_a_file_is_read_once_and_not_kept(image_root, tmp_path, tiny_file, monkeypatch):
    read = []
    monkeypatch.setattr(
        initial_weights, "read_weights", lambda *words: read.append(words) or read_weights(*words)
    )
    for times in (1, 2):
        first_steps(config(image_root, tmp_path / "run", model=TINY, weights=tiny_file))
        assert read == [(tiny_file, TINY)] * times


def test_options_override_the_preprocessing(image_root, tmp_path, tiny_file):
    options = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "nearest", "crop_pct": 0.5}
    options |= {"image_size": 96, "weights": tiny_file, "model": TINY, "epochs": 1, "mixer": "none"}
    run = prepare(config(image_root, tmp_path / "run", **options), [], {"limit_train_batches": 1})
    fit(run)
    colors = load(tmp_path / "run" / "checkpoints" / "last.ckpt").preprocessing
    assert (colors.size, colors.resize, colors.interpolation) == (96, 192, "nearest")
    assert (colors.mean, colors.std) == (options["mean"], options["std"])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_weights_of_torchvision(name, tmp_path):
    """The logits are torchvision's, also where the names of the weights differ."""
    theirs = torchvision.models.get_model(name, num_classes=7).eval()
    weights = theirs.state_dict()
    if name == "resnet18":  # as in files from before there were counters
        weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "weights.pth")
    ours = create_model(name, 7, 96)
    loaded = load_weights(ours, read_weights(tmp_path / "weights.pth"), "--weights", classifier=True)
    assert loaded.classifier
    assert len(loaded.keys.matched) == loaded.keys.total
    images = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_position_embeddings_are_resampled_as_timm_does(tmp_path):
    sizes = {"depth": 1, "num_classes": 5}
    trained = timm.create_model("vit_tiny_patch16_224", img_size=96, **sizes)
    torch.save(trained.state_dict(), tmp_path / "vit.pth")
    overlay = {"file": str(tmp_path / "vit.pth"), "num_classes": 5}
    timms = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, img_size=160, **sizes
    )
    ours = timm.create_model("vit_tiny_patch16_224", img_size=160, **sizes)
    loaded = load_weights(ours, read_weights(tmp_path / "vit.pth"), "--weights", classifier=True)
    assert len(loaded.keys.matched) == loaded.keys.total
    for name, value in timms.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert ours.pos_embed.shape != trained.pos_embed.shape


def test_a_checkpoint_and_its_export(image_root, tmp_path):
    """The classifier is kept for the same number of classes; size and colours are those of the training."""
    run = config(image_root, tmp_path / "first", model=TINY, epochs=1, image_size=32)
    fit(prepare(run, [], {}))
    last = run.out / "checkpoints" / "last.ckpt"
    export = tmp_path / "export.safetensors"
    assert (
        main(
            ["export", "--checkpoint", str(last), "--to", "timm", "--out", str(export), "--allow-mismatch"]
        )
        == 0
    )
    loaded = load(last)
    for number, file in enumerate((last, export)):
        again = config(image_root, tmp_path / f"again{number}", model=TINY, weights=file)
        learner = first_steps(again)
        assert learner.hparams["image_size"] == 32
        assert learner.hparams["data"]["mean"] == list(loaded.preprocessing.mean)
        assert learner.record()["weights"]["classifier"] == "loaded"
        network = learner.inference_network.state_dict()
        if file == last:
            assert all(torch.equal(network[k], v) for k, v in loaded.network.state_dict().items())


def test_heads(image_root, tmp_path, tiny_file):
    options = {"model": TINY, "weights": tiny_file, "mixer": "recursivemix"}
    zero = first_steps(config(image_root, tmp_path / "a", init_head="zero", **options)).network
    assert not zero.backbone.fc.weight.any()
    assert not zero.region_head.weight.any()
    assert zero.backbone.conv1[0].weight.any()
    file = tmp_path / "three.pth"
    torch.save(timm.create_model(TINY, num_classes=3).state_dict(), file)
    kept = first_steps(config(image_root, tmp_path / "b", **options | {"weights": file})).network
    fresh = config(image_root, tmp_path / "c", init_head="random", **options | {"weights": file})
    assert torch.equal(kept.backbone.fc.weight, read_weights(file).tensors["fc.weight"])
    assert not torch.equal(first_steps(fresh).network.backbone.fc.weight, kept.backbone.fc.weight)


def fake_cache(folder, monkeypatch):
    """Put weights where the hub's client keeps those of timm."""
    network = timm.create_model(TINY)
    hub_id = timm.get_pretrained_cfg(TINY).hf_hub_id
    root = folder / f"models--{hub_id.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789abcdef")
    save_file(contiguous(network), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return network


def test_pretrained_from_the_cache(image_root, tmp_path, monkeypatch):
    network = fake_cache(tmp_path / "hub", monkeypatch)
    learner = first_steps(config(image_root, tmp_path / "run", model=TINY, pretrained=True))
    started = learner.inference_network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(started[name], value) == (not name.startswith("fc.")), name
    assert learner.record()["weights"]["source"] == f"timm {TINY}.r160_in1k"


def test_a_run_resumes_without_the_file(image_root, tmp_path, tiny_file):
    options = {"model": TINY, "weights": tiny_file, "mixer": "cutmix", "epochs": 2, "image_size": 32}
    whole = trained(config(image_root, tmp_path / "whole", **options))
    parts = config(image_root, tmp_path / "parts", **options)

    with pytest.raises(StoppedError):
        fit(prepare(parts, [Signalled(5)], {}))
    tiny_file.unlink()
    same(whole, gone_on(parts))
    records = [
        json.loads((tmp_path / name / "record.json").read_text())["weights"] for name in ("whole", "parts")
    ]
    assert records[0] == records[1]
    assert records[0]["source"] == str(tiny_file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "nowhere.pth"], "--weights: there is no file"),
        (["--weights", "broken.pth"], "cannot be read as weights"),
        (["--weights", "other.pth", "--model", TINY], "at least 95% must match"),
        (["--weights", "number.pth"], "not weights by name"),
        (["--pretrained", "--model", "resnet20"], "timm has no pretrained weights of 'resnet20'"),
        (["--pretrained", "--model", "resnet18"], "add --download"),
        (["--pretrained", "--weights", "other.pth"], "give one of them"),
        (["--crop-pct", "1.5"], "--crop-pct must be in"),
    ],
)
def test_what_cannot_be_used(options, message, image_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    torch.save(timm.create_model("test_vit").state_dict(), "other.pth")
    torch.save(3, "number.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    assert main(["fit", "--data", str(image_root), *FAST, "--out", "run", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.module.", "model._orig_mod.", "network.backbone."]
)
def test_prefixes_of_other_programs_are_left_out(prefix):
    """DDP and `torch.compile` each add one, in either order."""
    network = timm.create_model(TINY, num_classes=2)
    weights = {prefix + name: value for name, value in contiguous(network).items()}
    loaded = load_weights(network, StoredWeights(weights, "a file"), "--weights", classifier=True)
    assert loaded.classifier
    assert len(loaded.keys.matched) == loaded.keys.total


def test_keys_that_do_not_match_are_named():
    network = timm.create_model(TINY, num_classes=2)
    weights = contiguous(network)
    lost = next(iter(weights))
    del weights[lost]
    loaded = load_weights(network, StoredWeights(weights, "a file"), "--weights", classifier=True)
    assert f"(not {lost})" in str(loaded)
    assert loaded.record()["missing"] == [lost]
