"""Where networks look: against the textbook formula, the library, and networks of every kind."""

import re

import pytest
import torch
from by_hand import CLASSES, write_checkpoint
from PIL import Image

from recursivemix.cli import main
from recursivemix.evaluation.activation import METHODS, activation_maps, weighted_maps
from recursivemix.explain.activation import distinct_names
from recursivemix.explain.explain import explain
from recursivemix.models.create import create_model


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "one" / "checkpoints" / "last.ckpt")


def network(name, size=32, classes=5):
    torch.manual_seed(0)
    return create_model(name, classes, size).eval()


IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 3, 4, 1])


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_cam_is_grad_cam_where_the_map_is_pooled(name):
    """Of a pooled map the gradient of a logit is the classifier's weight (Selvaraju et al., 3.1)."""
    model = network(name)
    cam, grad = (activation_maps(model, IMAGES, LABELS, method=m) for m in ("cam", "gradcam"))
    torch.testing.assert_close(cam, grad, atol=1e-3, rtol=0)


def test_cam_in_loops():
    model = network("resnet20")
    kept = []
    handle = model.layer3.register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    (classifier,) = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
    maps = weighted_maps(model, IMAGES, LABELS, "layer3")
    for i, label in enumerate(LABELS.tolist()):
        small = torch.zeros(kept[0].shape[-2:])
        for channel, weight in enumerate(classifier.weight[label].tolist()):
            small += weight * kept[0][i, channel]
        large = torch.nn.functional.interpolate(small.clamp(min=0)[None, None], 32, mode="bilinear")[0, 0]
        expected = (large - large.min()) / (large.max() - large.min()).clamp(min=1e-7)
        torch.testing.assert_close(maps[i], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_convolutional_network(method):
    maps = activation_maps(network("resnet20"), IMAGES[:2], LABELS[:2], method=method)
    assert maps.shape == (2, 32, 32)
    assert maps.dtype == torch.float32
    assert float(maps.min()) >= 0
    assert float(maps.max()) <= 1
    assert float(maps.max()) > 0.9  # a class that nothing speaks for has a map of zeros


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_transformers(name, method):
    model = network(name, 64)
    maps = activation_maps(model, torch.randn(2, 3, 64, 64), LABELS[:2], method=method)
    assert maps.shape == (2, 64, 64)
    assert maps.isfinite().all()


def test_cam_says_where_it_is_not_defined():
    with pytest.raises(ValueError, match=r"cam needs one linear layer .* use --method gradcam"):
        activation_maps(
            network("vit_tiny_patch16_224", 64), torch.randn(1, 3, 64, 64), LABELS[:1], method="cam"
        )


def test_a_layer_that_is_named():
    model = network("resnet20")
    found = activation_maps(model, IMAGES, LABELS)
    named = activation_maps(model, IMAGES, LABELS, layer="layer3")
    other = activation_maps(model, IMAGES, LABELS, layer="layer2")
    assert torch.equal(found, named)
    assert not torch.allclose(found, other)


def test_several_checkpoints_and_classes(checkpoint, image_root, tmp_path, capsys):
    second = write_checkpoint(tmp_path / "two" / "checkpoints" / "last.ckpt", "wrn10_2", seed=1)
    out = tmp_path / "e.html"
    words = [
        "explain",
        "--checkpoint",
        str(checkpoint),
        f"--checkpoint={second}",
        "--images",
        str(image_root),
    ]
    assert main([*words, "--count", "4", "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "feature map of one: layer3" in printed
    assert "feature map of two:" in printed
    html = out.read_text()
    assert html.count('class="picture"') == 4 * (1 + 2 * 2)
    heads = re.findall(r'<th scope="col">(.*?)</th>', html)
    assert heads == ["image", "one", "one", "two", "two"]
    assert main([*words, "--classes", "red", "--count", "2", "--out", str(out), "--device", "cpu"]) == 0
    assert out.read_text().count('class="picture"') == 2 * (1 + 2)


def test_the_own_class_comes_first(checkpoint, image_root, tmp_path):
    out, _ = explain([checkpoint], image_root, count=3, top=1, out=tmp_path / "e.html", device="cpu")
    html = out.read_text()
    for name in CLASSES:
        assert f"<div>{name} " in html
        assert f'alt="{name}"' in html  # of the image itself, which has one line


def test_digits_without_images(tmp_path):
    path = write_checkpoint(
        tmp_path / "d.ckpt", size=32, classes=[str(k) for k in range(10)], dataset="digits"
    )
    out, _ = explain([path], count=3, out=tmp_path / "e.png", theme="dark", device="cpu")
    with Image.open(out) as image:
        assert image.width > 400


def test_names_that_tell_apart(tmp_path):
    def of(*paths):
        return distinct_names([tmp_path / path for path in paths])

    assert of("a/checkpoints/last.ckpt", "b/checkpoints/last.ckpt") == ["a", "b"]
    assert of("a/checkpoints/last.ckpt", "a/checkpoints/best.ckpt") == ["a, last", "a, best"]
    assert of("x/m.ckpt", "y/m.ckpt") == ["m, m (1)", "m, m (2)"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "nowhere"], "--images: there is no folder nowhere"),
        (["--images", "."], "--images: . holds no images (.jpg"),
        (["--classes", "cat"], "--classes must be some of blue, green, red, got cat"),
        (["--top", "9"], "--top must be in 1..3"),
        (["--out", "e.gif"], "--out must end in .png or .html"),
        ([], "was not trained on the digits: name a folder with --images DIR"),
        (["--checkpoint", "missing.ckpt"], "there is no checkpoint missing.ckpt"),
        (["--layer", "layer9"], "layer9"),
    ],
)
def test_a_refusal_is_one_line(words, message, checkpoint, image_root, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    images = [] if not words or "--images" in words else ["--images", str(image_root)]
    assert main(["explain", "--checkpoint", str(checkpoint), *images, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(folder.iterdir())


def test_a_wrong_class_of_many_gives_a_short_message(tmp_path):
    path = write_checkpoint(tmp_path / "m.ckpt", classes=[f"class-{k}" for k in range(1000)])
    with pytest.raises(ValueError, match=r"class-19 and 980 more, got cat$"):
        explain([path], classes=["cat"], out=tmp_path / "e.png", device="cpu")


def test_an_option_without_its_value_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", "--checkpoint"])
    assert "--checkpoint" in capsys.readouterr().err


def test_other_classes_do_not_stand_side_by_side(checkpoint, image_root, tmp_path):
    other = write_checkpoint(tmp_path / "other.ckpt", classes=["blue", "cat", "red"])
    with pytest.raises(
        ValueError, match=r"has 3, other has 3; class 1 is 'green' in the first and 'cat' in"
    ):
        explain([checkpoint, other], image_root, out=tmp_path / "e.png", device="cpu")
