"""From checkpoints of every task back to their networks; everything else is refused in one line."""

import copy
import re

import pytest
import torch

import recursivemix
from recursivemix.models.checkpoint_file import CheckpointError, write_checkpoint
from recursivemix.models.create import create_model
from recursivemix.models.region import RegionModel
from recursivemix.models.trained import backbone_weights, load, load_task
from samples import trained_content

TASKS = ["classification", "detection", "instance", "segmentation"]


def test_a_classifier_without_its_region_head(save_trained):
    path = save_trained()
    trained = recursivemix.load(str(path))
    assert (trained.task, trained.model, trained.path) == ("classification", "resnet20", path)
    assert trained.classes == ("cat", "dog", "=SUM(A1)")
    colors = trained.preprocessing
    assert (colors.size, colors.resize, colors.interpolation) == (16, 16, "bilinear")
    assert (colors.mean, colors.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    assert not trained.network.training
    content = trained_content()
    expected = RegionModel(create_model("resnet20", 3, 16), image_size=(16, 16)).eval()
    expected.load_state_dict({k.removeprefix("network."): v for k, v in content["state_dict"].items()})
    assert trained.network.state_dict().keys() == expected.backbone.state_dict().keys()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(trained.network(images), expected(images))


@pytest.mark.parametrize("task", TASKS[1:])
def test_networks_of_other_tasks(task, save_trained):
    trained = load(save_trained(task=task))
    assert (trained.task, trained.classes, trained.preprocessing.size) == (task, ("cat", "=dog"), 64)
    assert trained.preprocessing.mean == (0.4, 0.5, 0.6)
    state = trained_content(task)["state_dict"]
    own = trained.network.state_dict()
    assert state.keys() == {f"network.{name}" for name in own}
    assert all(torch.equal(own[name.removeprefix("network.")], value) for name, value in state.items())


def test_larger_images_are_resized_beyond_their_crop(save_trained):
    colors = load(save_trained(image_size=112)).preprocessing
    assert (colors.size, colors.resize) == (112, 128)


def test_a_network_with_a_module_called_backbone_is_not_unwrapped():
    state = {"network.backbone.weight": torch.zeros(1), "network.head.weight": torch.zeros(1)}
    assert backbone_weights(state).keys() == {"backbone.weight", "head.weight"}
    state = {"network.backbone.weight": torch.zeros(1), "network.region_head.weight": torch.zeros(1)}
    assert backbone_weights(state).keys() == {"weight"}


def test_another_task_is_named(save_trained):
    detector = save_trained("detector.ckpt", "detection")
    with pytest.raises(
        CheckpointError, match=r"is a checkpoint of detection, this needs one of classification"
    ):
        load_task(detector, "classification")
    assert load_task(detector, "detection", "instance").task == "detection"


def changed(task, *changes):
    """A checkpoint's content after assignments ``(path, value)`` or deletions ``(path,)``."""
    content = copy.deepcopy(trained_content(task))
    for path, *value in changes:
        *parents, last = path.split("/")
        table = content
        for name in parents:
            table = table[name]
        if value:
            table[last] = value[0]
        else:
            del table[last]
    return content


WEIGHT = "state_dict/network.backbone.fc.bias"
HYPER = "hyper_parameters"
MALFORMED = {
    "no weights": ("classification", [("state_dict", {})], "0 of its .* keys match"),
    "weight missing": ("classification", [(WEIGHT,)], "1 missing .fc.bias"),
    "weight foreign": ("classification", [(WEIGHT + "2", torch.zeros(1))], "1 unexpected .fc.bias2"),
    "weight outside": ("classification", [("state_dict/other", torch.zeros(1))], "outside the network"),
    "weight shape": ("classification", [(WEIGHT, torch.zeros(4))], r"fc.bias is \(4,\) here, \(3,\) there"),
    "weight integer": (
        "classification",
        [(WEIGHT, torch.zeros(3).long())],
        "is torch.int64, expected torch.f",
    ),
    "weight complex": ("classification", [(WEIGHT, torch.zeros(3) * 1j)], "is torch.complex64"),
    "weight sparse": ("classification", [(WEIGHT, torch.ones(3).to_sparse())], "must be a dense tensor"),
    "weight None": ("classification", [(WEIGHT, None)], "must be a dense tensor, got NoneType"),
    "model missing": ("classification", [(f"{HYPER}/model",)], "its settings have no model"),
    "model number": ("classification", [(f"{HYPER}/model", 5)], "its model is int, expected str"),
    "model unknown": ("classification", [(f"{HYPER}/model", "resnet21")], "unknown model 'resnet21'"),
    "model from a hub": ("classification", [(f"{HYPER}/model", "hf-hub:a/b")], "unknown model"),
    "model other": ("classification", [(f"{HYPER}/model", "resnet32")], "are those of another network"),
    "classes None": (
        "classification",
        [(f"{HYPER}/classes", None)],
        "its classes is NoneType, expected list",
    ),
    "classes empty": ("classification", [(f"{HYPER}/classes", [])], "its classes must be a list of str"),
    "classes mixed": ("classification", [(f"{HYPER}/classes", ["a", 1, "b"])], "must be a list of str"),
    "classes more": (
        "classification",
        [(f"{HYPER}/classes", ["a"] * 4)],
        r"fc.weight is \(3, 64\) here, \(4",
    ),
    "size text": (
        "classification",
        [(f"{HYPER}/image_size", "16")],
        "image_size must be 1 to .*, got '16'",
    ),
    "size huge": ("classification", [(f"{HYPER}/image_size", 10**9)], "image_size must be 1 to"),
    "size zero": ("classification", [(f"{HYPER}/image_size", 0)], "image_size must be 1 to"),
    "data None": ("classification", [(f"{HYPER}/data", None)], "its data is NoneType, expected dict"),
    "data missing": ("classification", [(f"{HYPER}/data",)], "its settings have no data"),
    "mean short": ("classification", [(f"{HYPER}/data/mean", [0.5])], "mean must be three finite numbers"),
    "mean infinite": ("classification", [(f"{HYPER}/data/mean", [0.5, 0.5, torch.inf])], "three finite"),
    "std zero": ("classification", [(f"{HYPER}/data/std", [0.2, 0.0, 0.2])], "std must be > 0"),
    "std tensor": (
        "classification",
        [(f"{HYPER}/data/std", torch.ones(3))],
        "its std is Tensor, expected list",
    ),
    "backbone None": ("detection", [(f"{HYPER}/backbone", None)], "its backbone is NoneType"),
    "backbone size": ("detection", [(f"{HYPER}/backbone/image_size", "a")], "cannot be used"),
    "detector unknown": ("detection", [(f"{HYPER}/detector", "os.system")], "cannot be used"),
    "detector list": ("detection", [(f"{HYPER}/detector", ["atss"])], "cannot be used"),
    "channels missing": ("detection", [(f"{HYPER}/channels",)], "cannot be used.*channels"),
    "channels other": ("detection", [(f"{HYPER}/channels", 32)], "are those of another network"),
    "depth None": ("detection", [(f"{HYPER}/depth", None)], "cannot be used"),
    "head unknown": ("segmentation", [(f"{HYPER}/head", "fcn")], "cannot be used"),
    "channels text": ("segmentation", [(f"{HYPER}/channels", "16")], "cannot be used"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_content_is_named_in_one_line(name, tmp_path):
    task, changes, message = MALFORMED[name]
    path = tmp_path / "last.ckpt"
    write_checkpoint(changed(task, *changes), path)
    with pytest.raises(CheckpointError, match=message) as refusal:
        load(path)
    assert isinstance(refusal.value, ValueError)
    assert re.search(re.escape(str(path)), str(refusal.value))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600
