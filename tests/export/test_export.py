"""Exports as their readers use them: the report's loading call, run as it stands, gives the same logits."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from PIL import Image
from rich.console import Console
from timm.models.beit import Beit
from torch import Tensor, nn

from recursivemix.export import onnx_file
from recursivemix.export.export import TARGETS, export_checkpoint
from recursivemix.export.hf_folder import crop_share
from recursivemix.export.reference import logits_of, read_reference
from recursivemix.export.report import ExportReport
from recursivemix.export.torchvision_file import TORCHVISION, rename_by_order
from recursivemix.models.checkpoint_file import read_checkpoint, write_checkpoint
from recursivemix.models.region import RegionModel
from recursivemix.models.trained import load
from recursivemix.models.weight_keys import ShapeMismatch, compare_keys
from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.settings import ClassificationSettings

CLASSES = ("cat", "dog", "[red] $fox_")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def awake(network: nn.Module) -> None:
    """Random weights and statistics that no two layers share: equal logits then mean equal networks."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5, generator=generator)


def save_checkpoint(
    path: Path, model: str, image_size: int, mixer: str = "recursivemix"
) -> MixedClassifier:
    """What a training run would leave, less its optimiser; returns the module."""
    data = {"embedded": True, "val_split": None, "seed": 0, "mean": list(MEAN), "std": list(STD)}
    settings = ClassificationSettings(model=model, mixer=mixer)
    module = MixedClassifier(settings, CLASSES, image_size, data)
    awake(module.network)
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 1,
        "global_step": 1,
        "loops": {},
    }
    module.on_save_checkpoint(checkpoint)
    write_checkpoint(checkpoint, path)
    return module.eval()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints by network and size, each made once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[tuple[str, int], tuple[Path, MixedClassifier]] = {}

    def get(model: str, image_size: int) -> tuple[Path, MixedClassifier]:
        key = (model, image_size)
        if key not in made:
            path = folder / f"{model}-{image_size}.ckpt"
            torch.manual_seed(0)  # whatever ran before
            made[key] = path, save_checkpoint(path, model, image_size)
        return made[key]

    return get


@pytest.fixture(scope="module")
def exported_resnet(checkpoints, tmp_path_factory):
    """ResNet-18 at 96 pixels exported to each target, once."""
    made: dict[str, ExportReport] = {}

    def get(to: str) -> ExportReport:
        if to not in made:
            out = tmp_path_factory.mktemp("exported") / "new" / "resnet18"
            made[to] = export_checkpoint(checkpoints("resnet18", 96)[0], to, out)
        return made[to]

    return get


def images_of(image_size: int) -> Tensor:
    return torch.randn(4, 3, image_size, image_size, generator=torch.Generator().manual_seed(5))


def run_call(report) -> dict[str, object]:
    """The names that the report's loading call makes; of ONNX, without the preparation of a file."""
    names: dict[str, object] = {}
    exec(report.loading_call.partition("# of a file")[0], names)
    return names


def check_logits(report, module, images):
    """The loading call's network gives the checkpoint's logits."""
    with torch.no_grad():
        expected = module(images)
        if report.to == "onnx":
            session = run_call(report)["session"]
            logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        else:
            logits = run_call(report)["model"](images)
            logits = getattr(logits, "logits", logits)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert expected.abs().max() > 0.1  # says something


@pytest.mark.parametrize("to", list(TARGETS))
def test_a_resnet_goes_everywhere(to, checkpoints, exported_resnet):
    _, module = checkpoints("resnet18", 96)
    assert isinstance(module.network, RegionModel)
    report = exported_resnet(to)
    assert report.max_difference < 1e-4
    assert report.path.name == f"resnet18{TARGETS[to][1]}"
    assert list(report.path.parent.iterdir()) == [report.path]  # no temporary file is left
    check_logits(report, module, images_of(96))
    if to != "onnx":
        assert report.keys.same
        assert len(report.keys.matched) == len(timm.create_model("resnet18").state_dict())


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_a_file_holds_the_librarys_keys_and_says_what_it_is(to, checkpoints, tmp_path):
    path, _ = checkpoints("resnet18", 96)
    file = export_checkpoint(path, to, tmp_path / "a.safetensors").path
    assert file.name == "a.safetensors"
    with safetensors.safe_open(file, "pt") as stored:
        assert set(stored.keys()) == set(torchvision.models.resnet18().state_dict())
        told = stored.metadata()
    assert (told["format"], told["architecture"], told["num_classes"]) == ("pt", "resnet18", "3")
    assert tuple(json.loads(told["label_names"])) == CLASSES
    assert json.loads(told["input_size"]) == [3, 96, 96]
    assert (tuple(json.loads(told["mean"])), tuple(json.loads(told["std"]))) == (MEAN, STD)


def test_an_onnx_file_takes_any_batch_and_says_what_it_is(exported_resnet):
    file = exported_resnet("onnx").path
    session = onnxruntime.InferenceSession(file)
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, 96, 96])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    told = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(told["label_names"])) == CLASSES
    assert (tuple(json.loads(told["mean"])), tuple(json.loads(told["std"]))) == (MEAN, STD)
    assert "region" not in file.read_bytes().decode("latin-1")


@pytest.mark.parametrize("to", ["timm", "hf", "onnx"])
@pytest.mark.parametrize("image_size", [32, 96])
def test_a_transformer_is_told_its_sizes(to, image_size, checkpoints, tmp_path):
    path, module = checkpoints("test_vit" if to == "onnx" else "vit_tiny_patch16_224", image_size)
    report = export_checkpoint(path, to, tmp_path / "vit")
    check_logits(report, module, images_of(image_size))
    sizes = "img_size=32, patch_size=4" if image_size == 32 else "img_size=96"
    assert to != "timm" or sizes in report.loading_call


def test_a_folder_for_hugging_face(checkpoints, tmp_path):
    path, module = checkpoints("vit_tiny_patch16_224", 96)
    report = export_checkpoint(path, "hf", tmp_path / "vit")
    assert sorted(p.name for p in report.path.iterdir()) == ["config.json", "model.safetensors"]
    names = run_call(report)
    config = names["model"].config
    assert type(names["model"]).__name__ == "TimmWrapperForImageClassification"
    assert config.id2label == dict(enumerate(CLASSES))
    assert config.label2id == {name: i for i, name in enumerate(CLASSES)}
    assert config.model_args == {"img_size": 96}
    grey = Image.new("RGB", (200, 120), (102, 102, 102))
    pixels = names["processor"](grey)["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96)
    expected = (torch.full((3,), 0.4) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), expected)
    # timm reads the folder as well.
    again = timm.create_model(f"local-dir:{report.path}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images_of(96)), module(images_of(96)), rtol=0, atol=1e-4)


def test_what_was_set_in_transformers_stays(checkpoints, tmp_path):
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    export_checkpoint(checkpoints("resnet18", 96)[0], "hf", tmp_path / "out")
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("model", ["densenet121", "mobilenetv2_100"])
def test_other_families_for_torchvision(model, checkpoints, tmp_path):
    path, module = checkpoints(model, 96)
    report = export_checkpoint(path, "torchvision", tmp_path / "out")
    check_logits(report, module, images_of(96))


def test_a_network_that_torchvision_lacks(checkpoints, tmp_path):
    path, _ = checkpoints("vit_tiny_patch16_224", 96)
    with pytest.raises(ValueError, match=r"to be vit_tiny.*exports resnet18, .*Use --to timm, hf or onnx"):
        export_checkpoint(path, "torchvision", tmp_path / "out", allow_mismatch=True)


def test_torchvision_knows_every_name_of_the_table():
    assert set(TORCHVISION) <= set(timm.list_models())
    assert set(TORCHVISION.values()) <= set(torchvision.models.list_models())


def test_only_whole_tables_are_renamed():
    here = {"a": torch.zeros(6, 1), "b": torch.zeros(3)}
    there = {"c": torch.zeros(2, 3), "d": torch.zeros(4)}
    renamed = rename_by_order(here, there)
    assert {key: tuple(value.shape) for key, value in renamed.items()} == {"c": (2, 3), "d": (3,)}
    assert rename_by_order(here, {"c": torch.zeros(6)}) is here
    assert rename_by_order(here, dict(reversed(here.items()))) is here


@pytest.mark.parametrize("to", ["timm", "torchvision", "hf"])
def test_a_network_with_another_stem_is_refused_or_left_without_it(to, checkpoints, tmp_path):
    path, module = checkpoints("resnet18", 32)
    out = tmp_path / "deep" / "out"
    with pytest.raises(ValueError, match="is not the resnet18") as refusal:
        export_checkpoint(path, to, out)
    message = str(refusal.value)
    for part in (
        "121 of its 122 keys match, 0 missing, 0 unexpected, 1 of another shape",
        "conv1.weight is (64, 3, 3, 3) here, (64, 3, 7, 7) there",
        "--to onnx",
        "create_model('resnet18', 3, 32)",
        "--allow-mismatch",
    ):
        assert part in message
    assert list(tmp_path.iterdir()) == []

    report = export_checkpoint(path, to, out, allow_mismatch=True)
    assert report.keys.mismatched == (ShapeMismatch("conv1.weight", (64, 3, 3, 3), (64, 3, 7, 7)),)
    assert report.max_difference is None
    model = run_call(report)["model"]
    state = getattr(model, "timm_model", model).state_dict()
    for key in report.keys.matched:
        assert state[key].equal(module.network.backbone.state_dict()[key])


def test_equal_keys_are_not_enough(checkpoints, tmp_path):
    """At 32 pixels this network differs from timm's in one stride, and in no key."""
    path, _ = checkpoints("mobilenetv2_100", 32)
    for to in ("timm", "torchvision"):
        with pytest.raises(ValueError, match="all 314 keys match, but its logits differ by"):
            export_checkpoint(path, to, tmp_path / "out")
    report = export_checkpoint(path, "timm", tmp_path / "out", allow_mismatch=True)
    assert report.keys.same
    assert report.max_difference > 1e-3


def test_own_networks_go_to_onnx(checkpoints, tmp_path):
    path, module = checkpoints("resnet20", 32)
    report = export_checkpoint(path, "onnx", tmp_path / "out")
    assert report.keys is None
    check_logits(report, module, images_of(32))
    for to in ("timm", "torchvision", "hf"):
        with pytest.raises(ValueError, match=r"recursivemix's own network.*--to onnx.*create_model"):
            export_checkpoint(path, to, tmp_path / "other", allow_mismatch=True)
    assert not (tmp_path / "other").exists()


def test_a_mixer_without_regions(tmp_path):
    module = save_checkpoint(tmp_path / "a.ckpt", "resnet20", 16, mixer="cutmix")
    assert not isinstance(module.network, RegionModel)
    report = export_checkpoint(tmp_path / "a.ckpt", "onnx", tmp_path / "out")
    check_logits(report, module, images_of(16))


def test_attention_with_a_bias_goes_to_onnx(checkpoints, tmp_path):
    """torch 2.15 can't export its fused attention as this network calls it."""
    beit = Beit(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=3, use_rel_pos_bias=True
    ).eval()
    awake(beit)
    reference = read_reference(checkpoints("resnet20", 32)[0])
    reference = replace(reference, network=beit, logits=logits_of(beit, reference.images))
    report = onnx_file.write_onnx(reference, tmp_path / "a.onnx", tmp_path / "a.onnx", False)
    check_logits(report, beit, images_of(32))
    assert all(module.fused_attn for module in beit.modules() if hasattr(module, "fused_attn"))


class MeanColour(nn.Module):
    """A network as small as they get."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(images.mean((2, 3)))
        return logits


class NeedsPairs(MeanColour):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).reshape(2, 3)


class AsksAPixel(MeanColour):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NeedsPairs, "torch exports resnet20 to ONNX for batches of 2 only"),
        (AsksAPixel, "torch cannot export resnet20 to ONNX for any batch size: "),
        (MeanColour, "differ by .* from torch's with a batch of 1"),  # its logits are another network's
    ],
)
def test_what_onnx_cannot_hold_is_refused(network, message, checkpoints, tmp_path):
    reference = replace(read_reference(checkpoints("resnet20", 32)[0]), network=network().eval())
    with pytest.raises(ValueError, match=message) as refusal:
        onnx_file.write_onnx(reference, tmp_path / "a.onnx", tmp_path / "a.onnx", False)
    assert "\n" not in str(refusal.value)


def test_an_onnx_file_that_does_not_run_is_refused(checkpoints, tmp_path):
    path, _ = checkpoints("resnet20", 32)
    reference = read_reference(path)
    file = export_checkpoint(path, "onnx", tmp_path / "a").path
    with pytest.raises(ValueError, match="does not run with a batch of 1") as refusal:
        onnx_file.check_run(replace(reference, images=reference.images[..., 1:]), file, onnxruntime)
    assert "\n" not in str(refusal.value)


def test_a_network_too_large_for_onnx_is_refused(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    with pytest.raises(ValueError, match="less than 2 GiB"):
        export_checkpoint(checkpoints("resnet20", 32)[0], "onnx", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_defect_while_reading_back_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    """A reader that mistakes the file is noticed, and the file is gone."""
    path, _ = checkpoints("resnet18", 96)
    monkeypatch.setattr(timm, "create_model", lambda *a, checkpoint_path=None, **k: make(*a, **k))
    with pytest.raises(ValueError, match="timm loaded other values"):
        export_checkpoint(path, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


make = timm.create_model


def test_what_is_there_is_kept(checkpoints, tmp_path):
    path, _ = checkpoints("resnet18", 96)
    (tmp_path / "out.safetensors").write_text("precious")
    (tmp_path / "folder").mkdir()
    for to, name in (("timm", "out"), ("timm", "out.safetensors"), ("hf", "folder")):
        with pytest.raises(ValueError, match="already exists: name a new one with --out"):
            export_checkpoint(path, to, tmp_path / name)
    assert (tmp_path / "out.safetensors").read_text() == "precious"


def test_a_place_that_cannot_be_written(checkpoints, tmp_path):
    path, _ = checkpoints("resnet18", 96)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*out.safetensors \(--out\)"):
        export_checkpoint(path, "timm", tmp_path / "file" / "deep" / "out")


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        export_checkpoint(tmp_path / "none.ckpt", "timm", tmp_path / "out")
    (tmp_path / "noise.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        export_checkpoint(tmp_path / "noise.ckpt", "timm", tmp_path / "out")
    with pytest.raises(ValueError, match="--to must be one of timm, torchvision, hf, onnx, got 'tflite'"):
        export_checkpoint(tmp_path / "noise.ckpt", "tflite", tmp_path / "out")


def test_a_diverged_checkpoint_is_refused(checkpoints, tmp_path):
    stored = torch.load(checkpoints("resnet20", 32)[0], weights_only=True)
    stored["state_dict"]["network.backbone.fc.bias"].fill_(float("nan"))
    write_checkpoint(stored, tmp_path / "nan.ckpt")
    with pytest.raises(ValueError, match="not finite"):
        export_checkpoint(tmp_path / "nan.ckpt", "onnx", tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "missing"),
    [
        ("timm", "safetensors.torch"),
        ("torchvision", "safetensors.torch"),
        ("hf", "transformers"),
        ("onnx", "onnxscript"),
        ("onnx", "onnxruntime"),
    ],
)
def test_a_missing_package_is_named(to, missing, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf"--to {to} needs {missing}.*recursivemix\[export\]"):
        export_checkpoint(checkpoints("resnet18", 96)[0], to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_keys_are_sorted_into_four():
    here = {"a": torch.zeros(1), "b": torch.zeros(2), "c": torch.zeros(3)}
    there = {"b": torch.zeros(2), "c": torch.zeros(4), "d": torch.zeros(5)}
    keys = compare_keys(here, there)
    assert (keys.matched, keys.missing, keys.unexpected) == (("b",), ("d",), ("a",))
    assert keys.mismatched == (ShapeMismatch("c", (3,), (4,)),)
    assert not keys.same
    assert str(keys) == (
        "1 of its 3 keys match, 1 missing (d), 1 unexpected (a), "
        "1 of another shape (c is (3,) here, (4,) there)"
    )


def test_the_table_shows_paths_as_they_are(checkpoints, tmp_path):
    path, _ = checkpoints("resnet18", 32)
    report = export_checkpoint(path, "timm", tmp_path / "[red]out", allow_mismatch=True)
    console = Console(width=120)
    with console.capture() as shown:
        report.print(console)
    printed = shown.get()
    for part in ("[red]out.safetensors", "121", "conv1.weight is (64, 3, 3, 3) here", report.loading_call):
        assert part in printed


# -- the same files, the same labels ----------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """Smooth pictures of several sizes and formats."""
    (tmp_path / "photographs").mkdir()
    files = []
    for seed, size in enumerate([(320, 213), (150, 200), (96, 96), (120, 90), (1000, 400)]):
        coarse = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(seed))
        pixels = (255 * nn.functional.interpolate(coarse[None], size[::-1], mode="bicubic")[0]).clamp(
            0, 255
        )
        files.append(tmp_path / "photographs" / f"{seed}.{'png' if seed % 2 else 'jpg'}")
        Image.fromarray(pixels.permute(1, 2, 0).byte().numpy()).save(files[-1])
    return files


def balanced(path, files, out):
    """The checkpoint with a bias that makes no class likelier than another on average over the files."""
    logs = torch.zeros(len(CLASSES))
    for one in load(path).predict(files, top_k=3):
        for name, probability in zip(one.labels, one.probabilities, strict=True):
            logs[CLASSES.index(name)] += np.log(probability) / len(files)
    content = read_checkpoint(path)
    (bias,) = (
        v
        for k, v in content["state_dict"].items()
        if k.endswith(("backbone.fc.bias", "backbone.head.bias"))
    )
    bias -= logs
    write_checkpoint(content, out)
    return out


def check_predictions(expected, classes, logits):
    """Probabilities as near as another resize allows, and so the same label unless two are as near."""
    for one, row in zip(expected, logits, strict=True):
        probabilities = torch.as_tensor(row).float().softmax(0)
        places = {classes[k]: k for k in range(len(classes))}
        named = probabilities[[places[label] for label in one.labels]]
        torch.testing.assert_close(named, torch.tensor(one.probabilities), rtol=0, atol=0.02)
        assert named[0] > probabilities.max() - 0.04
    assert len({one.labels for one in expected}) > 1  # the pictures differ


def test_onnx_predicts_the_same_labels_for_the_same_files(checkpoints, photographs, tmp_path):
    """With nothing but PIL, NumPy and what the file says of itself."""
    path = balanced(checkpoints("resnet18", 96)[0], photographs, tmp_path / "balanced.ckpt")
    report = export_checkpoint(path, "onnx", tmp_path / "a")
    session = onnxruntime.InferenceSession(report.path)
    told = {
        k: json.loads(v)
        for k, v in session.get_modelmeta().custom_metadata_map.items()
        if k != "architecture"
    }
    side, short = told["input_size"][-1], told["resize"]
    assert told["interpolation"] == "bilinear"
    logits = []
    for file in photographs:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        scale = short / min(picture.size)
        picture = picture.resize(
            [int(scale * length) for length in picture.size], Image.Resampling.BILINEAR
        )
        left, top = (round((length - side) / 2) for length in picture.size)
        pixels = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        images = (pixels - np.float32(told["mean"])) / np.float32(told["std"])
        logits += list(session.run(["logits"], {"images": images.transpose(2, 0, 1)[None]})[0])
    expected = load(path).predict(photographs, top_k=3)
    check_predictions(expected, told["label_names"], logits)
    names: dict[str, object] = {"file": photographs[0]}
    exec(report.loading_call, names)  # prepares a file likewise
    assert names["label"] == expected[0].labels[0]


@pytest.mark.parametrize(("model", "size"), [("resnet18", 96), ("vit_tiny_patch16_224", 32)])
def test_hugging_face_predicts_the_same_labels_for_the_same_files(
    model, size, checkpoints, photographs, tmp_path
):
    path = balanced(checkpoints(model, size)[0], photographs, tmp_path / "balanced.ckpt")
    names = run_call(export_checkpoint(path, "hf", tmp_path / "folder"))
    pictures = []
    for file in photographs:
        with Image.open(file) as opened:
            pictures.append(opened.convert("RGB"))
    with torch.no_grad():
        logits = names["model"](**names["processor"](pictures, return_tensors="pt")).logits
    classes = names["model"].config.id2label
    check_predictions(load(path).predict(photographs, top_k=3), classes, logits)


def test_several_labels_have_probabilities_of_their_own(save_trained, photographs, tmp_path):
    checkpoint = save_trained(model="test_resnet", image_size=96, multi_label=True, classes=list(CLASSES))
    (expected,) = load(checkpoint).predict(photographs[:1], top_k=3)
    export_checkpoint(checkpoint, "hf", tmp_path / "folder")
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "folder"), device="cpu")
    answer = {one["label"]: one["score"] for one in classify(str(photographs[0]))}
    assert answer == pytest.approx(
        dict(zip(expected.labels, expected.probabilities, strict=True)), abs=0.02
    )
    names: dict[str, object] = {"file": photographs[0]}
    exec(export_checkpoint(checkpoint, "onnx", tmp_path / "a").loading_call, names)
    likely = [k for k, p in zip(expected.labels, expected.probabilities, strict=True) if p > 0.5]
    assert sorted(names["labels"]) == sorted(likely)


def test_hugging_face_resizes_to_the_same_pixels():
    for size in range(8, 400):
        for resize in range(size, 2 * size):
            assert math.floor(size / crop_share(size, resize)) == resize
