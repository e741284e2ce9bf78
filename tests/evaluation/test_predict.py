"""Predictions of every task: in batches as one by one, averaged over views and networks, for any image."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import recursivemix
from recursivemix.data.decode import MOST_ELONGATED, UnreadableImageError, whole_image
from recursivemix.evaluation import predict as module
from recursivemix.evaluation.predict import UnreadableImage, merge, mirror, predict, predictions
from recursivemix.models.checkpoint_file import write_checkpoint
from recursivemix.models.trained import load
from recursivemix.tasks.backbone import Backbone
from samples import trained_content, write_images


@pytest.fixture
def files(tmp_path):
    """Pictures of different sizes."""
    for hue, size in enumerate([(20, 16), (16, 24), (30, 30), (17, 16)]):
        write_images(tmp_path / f"images{hue}", 1, hue=hue, size=size)
    return [tmp_path / f"images{hue}" / "0.png" for hue in range(4)]


def slow_probabilities(trained, picture, mirrored=False):
    """One picture, with PIL's pixels, divided and normalized by hand."""
    colors = trained.preprocessing
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)
    pixels = v2.CenterCrop(colors.size)(v2.Resize(colors.resize, antialias=True)(pixels))
    image = torch.empty(1, 3, colors.size, colors.size)
    for c in range(3):
        image[0, c] = (pixels[c].float() / 255 - colors.mean[c]) / colors.std[c]
    with torch.no_grad():
        return trained.network(image.flip(-1) if mirrored else image)[0].softmax(0)


@pytest.mark.parametrize("tta", [None, "flip"])
@pytest.mark.parametrize("workers", [0, 2])
def test_classes_one_by_one(save_trained, files, tta, workers):
    trained = load(save_trained())
    results = trained.predict([str(f) for f in files], top_k=2, tta=tta, batch_size=3, workers=workers)
    for file, result in zip(files, results, strict=True):
        with Image.open(file) as picture:
            expected = slow_probabilities(trained, picture)
            if tta:
                expected = (expected + slow_probabilities(trained, picture, mirrored=True)) / 2
        order = expected.argsort(descending=True)[:2]
        assert result.name == str(file)
        assert result.labels == tuple(trained.classes[k] for k in order)
        assert result.probabilities == pytest.approx(expected[order].tolist(), abs=1e-5)
        assert result.features is None


def test_every_kind_of_image(save_trained, files):
    trained = load(save_trained())
    with Image.open(files[1]) as picture:
        picture.load()
    array = np.asarray(picture)
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = trained.predict(str(files[1]))[0].probabilities
    images = [files[1], picture, array, pixels, pixels.double() / 255]
    results = trained.predict(images)
    for result in results:
        assert result.probabilities == pytest.approx(expected, abs=1e-6)
    assert [r.name for r in results[2:]] == ["image 2", "image 3", "image 4"]
    for alone in (picture, pixels, str(files[1])):
        assert len(trained.predict(alone)) == 1
    assert len(trained.predict(torch.stack([pixels, pixels]))) == 2
    assert trained.predict([]) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 8, 8), r"got shape \(1, 8, 8\)"),
        (torch.zeros(3, 8, 8) + 2, r"floating with values in \[0, 1\], got torch.float32 from 2 to 2"),
        (torch.full((3, 8, 8), torch.nan), r"floating with values in \[0, 1\], got .* from nan to nan"),
        (np.zeros((3, 8, 9), np.uint8), r"got shape \(3, 8, 9\)"),
        (torch.zeros(3, 8, 8).long(), "must be uint8.*got torch.int64"),
        (np.zeros((8, 8)), "must be a file name, a PIL image"),
        (5, "got int"),
    ],
)
def test_other_images_are_named(save_trained, image, message):
    with pytest.raises(ValueError, match=message):
        load(save_trained()).predict([image])


@pytest.mark.parametrize(
    ("image", "found"), [(np.zeros((8, 9)), r"shape \(8, 9\)"), (None, "NoneType"), (5, "int")]
)
def test_what_is_neither_an_image_nor_a_sequence(save_trained, image, found):
    with pytest.raises(ValueError, match=f"must be a file name, a PIL image.* got {found}"):
        load(save_trained()).predict(image)


def test_averages_of_networks(save_trained, files):
    """Also of networks for different image sizes."""
    models = [load(save_trained("a.ckpt")), load(save_trained("b.ckpt", seed=1, image_size=24))]
    results = predict(models, files, top_k=3, features=True)
    for file, result in zip(files, results, strict=True):
        with Image.open(file) as picture:
            expected = sum(slow_probabilities(trained, picture) for trained in models) / 2
        found = dict(zip(result.labels, result.probabilities, strict=True))
        for label, value in zip(models[0].classes, expected.tolist(), strict=True):
            assert found[label] == pytest.approx(value, abs=1e-5)
        assert result.features.shape == (128,)
    other = load(save_trained("c.ckpt", classes=["cat", "dog", "cow"]))
    with pytest.raises(
        ValueError, match=r"c.ckpt \(classification, 3 classes\) .* must agree on task and cl"
    ):
        predict([models[0], other], files)
    other = load(save_trained("d.ckpt", classes=[*models[0].classes[:-1], "cow"]))
    with pytest.raises(ValueError, match=r"; class 2 is 'cow' in the first and '=SUM\(A1\)' in the second"):
        predict([models[0], other], files)
    with pytest.raises(ValueError, match="name at least one checkpoint"):
        predict([], files)


def test_features_are_what_the_classifier_receives(save_trained, files):
    trained = load(save_trained())
    for result in trained.predict(files, features=True, top_k=3, batch_size=3):
        logits = trained.network.fc(result.features)
        found = torch.tensor([result.probabilities[result.labels.index(name)] for name in trained.classes])
        torch.testing.assert_close(logits.softmax(0), found, rtol=0, atol=1e-5)
    assert not trained.network.fc._forward_pre_hooks
    views = trained.predict(files, features=True, tta="flip")
    with Image.open(files[0]) as picture:
        pictures = [picture.copy(), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    both = torch.stack([one.features for one in trained.predict(pictures, features=True)])
    torch.testing.assert_close(views[0].features, both.mean(0), rtol=0, atol=1e-3)


def test_unreadable_files(save_trained, files, tmp_path):
    trained = load(save_trained())
    (tmp_path / "noise.jpg").write_bytes(b"noise")
    (tmp_path / "cut.png").write_bytes(files[0].read_bytes()[:60])
    bad = [tmp_path / "noise.jpg", tmp_path / "cut.png", tmp_path / "missing.png"]
    sources = [bad[0], files[0], bad[1], bad[2], files[1]]
    for batch_size in (1, 2, 8):
        results = list(predictions([trained], sources, batch_size=batch_size, workers=2))
        assert [isinstance(r, UnreadableImage) for r in results] == [True, False, True, True, False]
        assert [r.name for r in results] == [str(s) for s in sources]
        assert "No such file" in results[3].reason
    with pytest.raises(ValueError, match=r"cannot read the image .*noise.jpg: "):
        trained.predict(sources)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("across", [False, True])
def test_the_most_elongated_images(save_trained, tmp_path, task, across):
    """They are predicted; a narrower one is named, since it cannot be resized."""
    trained = load(save_trained(task=task))
    for name, length in (("allowed.png", 2 * MOST_ELONGATED), ("narrower.png", 2 * MOST_ELONGATED + 1)):
        Image.new("RGB", (length, 2) if across else (2, length), "red").save(tmp_path / name)
    first, second = predictions([trained], [tmp_path / "allowed.png", tmp_path / "narrower.png"])
    assert not isinstance(first, UnreadableImage)
    assert isinstance(second, UnreadableImage)
    assert f"one side is more than {MOST_ELONGATED} times the other" in second.reason
    with pytest.raises(ValueError, match="one side is more than"):
        trained.predict([Image.new("RGB", (2, 2 * MOST_ELONGATED + 1))])
    with pytest.raises(UnreadableImageError, match=r"cannot read the image .*narrower.png: .* one side"):
        whole_image(tmp_path / "narrower.png")


def test_threads_end_when_the_reader_stops(save_trained, files):
    before = threading.active_count()
    results = predictions([load(save_trained())], files * 20, batch_size=2, workers=2)
    next(results)
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(("name", "value"), [("top_k", 0), ("batch_size", 0), ("tta", "rotate")])
def test_options_out_of_range(save_trained, name, value):
    with pytest.raises(ValueError, match=name):
        load(save_trained()).predict([], **{name: value})


# -- boxes ----------------------------------------------------------------------------------------


def scene(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_boxes_are_the_networks(task, save_trained):
    trained = load(save_trained(task=task))
    images = [scene(50, 70), scene(64, 40, 1)][: 1 if task == "instance" else 2]
    results = trained.predict(images, batch_size=1)
    assert all(len(result.boxes) for result in results)
    for image, result in zip(images, results, strict=True):
        with torch.no_grad():
            (expected,) = trained.network([image.float() / 255])
        assert result.size == tuple(image.shape[1:])
        torch.testing.assert_close(result.boxes, expected["boxes"])
        torch.testing.assert_close(torch.tensor(result.scores), expected["scores"])
        assert torch.equal(result.indices, expected["labels"])
        assert result.labels == tuple(trained.classes[k] for k in expected["labels"])
        assert (result.masks is None) == (task == "detection")
        if result.masks is not None:
            assert torch.equal(result.masks, expected["masks"])


def test_a_mirrored_box_lies_on_its_object():
    mask = torch.zeros(1, 6, 10, dtype=torch.bool)
    mask[0, 1:3, 2:5] = True
    found = {"boxes": torch.tensor([[2.0, 1, 5, 3]]), "masks": mask.flip(-1)}
    found["boxes"] = torch.tensor([[10.0 - 5, 1, 10 - 2, 3]])
    back = mirror(found, 10)
    assert back["boxes"].tolist() == [[2, 1, 5, 3]]
    assert torch.equal(back["masks"], mask)


def test_merging_is_suppression_in_loops():
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(3):
        corner = 20 * torch.rand(30, 2, generator=generator)
        boxes = torch.cat([corner, corner + 5 + 15 * torch.rand(30, 2, generator=generator)], 1)
        parts.append(
            {
                "boxes": boxes,
                "scores": torch.rand(30, generator=generator),
                "labels": torch.randint(2, (30,), generator=generator),
            }
        )

    def iou(a, b):
        sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
        shared = max(sides[0], 0) * max(sides[1], 0)
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return shared / (sum(areas) - shared)

    every = sorted(
        (
            (s, k, b)
            for p in parts
            for s, k, b in zip(*(p[n].tolist() for n in ("scores", "labels", "boxes")), strict=True)
        ),
        reverse=True,
    )
    kept = []
    for score, label, box in every:
        if all(other[1] != label or iou(other[2], box) <= module.MERGE_IOU for other in kept):
            kept.append((score, label, box))
    merged = merge(parts)
    assert merged["scores"].tolist() == pytest.approx([one[0] for one in kept])
    assert merged["labels"].tolist() == [one[1] for one in kept]
    torch.testing.assert_close(merged["boxes"], torch.tensor([one[2] for one in kept]))
    assert len(kept) < 90


def test_mirrored_views_and_networks_are_merged(save_trained):
    """A symmetric image: its own boxes, and their mirror images."""
    trained = load(save_trained(task="detection"))
    half = scene(48, 32)
    image = torch.cat([half, half.flip(-1)], -1)
    (plain,) = trained.predict([image])
    (both,) = trained.predict([image], tta="flip")
    parts = {"boxes": plain.boxes, "scores": torch.tensor(plain.scores), "labels": plain.indices}
    expected = merge([parts, mirror(parts, 64)])
    assert len(both.boxes) == len(expected["boxes"]) > 0
    torch.testing.assert_close(torch.tensor(both.scores), expected["scores"])
    (again,) = predict([trained, trained], [image])
    assert again.labels == plain.labels


def test_features_of_a_detector_do_not_depend_on_the_batch(save_trained):
    trained = load(save_trained(task="detection"))
    images = [scene(48, 96), scene(64, 64, 1)]
    alone = [trained.predict([image], features=True)[0].features for image in images]
    together = [one.features for one in trained.predict(images, features=True, batch_size=2)]
    for a, b in zip(alone, together, strict=True):
        assert a.shape == (
            next(m for m in trained.network.modules() if isinstance(m, Backbone)).channels[-1],
        )
        torch.testing.assert_close(a, b)


# -- label maps -----------------------------------------------------------------------------------


def slow_scores(trained, image, mirrored=False):
    from recursivemix.data.annotated_batches import resized

    colors = trained.preprocessing
    small = resized(image.flip(-1) if mirrored else image, colors.size).float() / 255
    small = (small - torch.tensor(colors.mean).view(3, 1, 1)) / torch.tensor(colors.std).view(3, 1, 1)
    with torch.no_grad():
        logits = trained.network(small[None])
    large = torch.nn.functional.interpolate(logits, size=image.shape[1:], mode="bilinear")[0]
    return large.flip(-1) if mirrored else large


def uneven(module, inputs, logits):
    """Add the colours, by place: means of probabilities and of logits then choose different classes."""
    return logits + 3 * inputs[0] * torch.linspace(-1, 2, inputs[0].shape[-1])


@pytest.mark.parametrize("tta", [None, "flip"])
def test_label_maps(save_trained, tta):
    trained = load(save_trained(task="segmentation", classes=["cat", "dog", "sky"]))
    trained.network.register_forward_hook(uneven)
    images = [scene(40, 70), scene(64, 64, 1), scene(90, 50, 2)]
    differ = False
    for image, result in zip(images, trained.predict(images, tta=tta), strict=True):
        scores = slow_scores(trained, image)
        if tta:
            mirrored = slow_scores(trained, image, mirrored=True)
            by_logits = (scores + mirrored).argmax(0)
            scores = scores.softmax(0) + mirrored.softmax(0)
            differ |= bool((scores.argmax(0) != by_logits).any())
        best = scores.topk(2, 0).values
        sure = best[0] - best[1] > 1e-4  # rounding decides about the others
        assert result.size == result.label_map.shape == image.shape[1:]
        assert torch.equal(result.label_map[sure], scores.argmax(0)[sure])
        assert sure.float().mean() > 0.9
        counts = {k: float((result.label_map == i).float().mean()) for i, k in enumerate(trained.classes)}
        assert result.shares == pytest.approx({k: share for k, share in counts.items() if share})
        assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True)
    assert differ == (tta is not None)


def test_a_checkpoint_of_a_run_predicts_its_own_data(tmp_path):
    """From training to prediction through the public names alone."""
    write_checkpoint(trained_content(), tmp_path / "last.ckpt")
    write_images(tmp_path / "images", 2, hue=1)
    results = recursivemix.load(tmp_path / "last.ckpt").predict(sorted((tmp_path / "images").iterdir()))
    assert [len(result.labels) for result in results] == [3, 3]
    assert sum(results[0].probabilities) == pytest.approx(1)
