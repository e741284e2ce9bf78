"""The dense detectors: torchvision's call, one graph for every batch, and boxes that mean what they say."""

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.detection.create import create_detector
from recursivemix.tasks.detection.one_stage import ATSS, BINS, GFL, Matched

NAMES = ["atss", "gfl", "fcos", "retinanet", "maskrcnn"]


def make(name, classes=3, model="resnet18", **others):
    torch.manual_seed(0)
    options = {"image_size": 96, "max_size": 160, "channels": 32, "depth": 1} | others
    return create_detector(name, load_backbone("random", model), classes, **options)


def pictures(sizes=((96, 96), (80, 120)), objects=2):
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    targets = []
    for height, width in sizes:
        corners = torch.rand(objects, 2, generator=generator) * 40
        boxes = torch.cat([corners, corners + 10 + 20 * torch.rand(objects, 2, generator=generator)], 1)
        masks = torch.zeros(objects, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(3, (objects,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, targets


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_detections(name):
    detector = make(name)
    images, targets = pictures()
    losses = detector(images, targets)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    missing = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    detector.eval()
    with torch.no_grad():
        found = detector(images)
    for image, one in zip(images, found, strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert one["boxes"].dtype == one["scores"].dtype == torch.float32
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        limit = torch.tensor([image.shape[-1], image.shape[-2]] * 2)
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= limit + 1e-3).all()


@pytest.mark.parametrize("name", NAMES)
def test_images_without_objects(name):
    detector = make(name)
    images, targets = pictures()
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "masks": torch.zeros(0, 80, 120, dtype=torch.uint8),
    }
    for mixture in ([targets[0], nothing], [nothing | {"masks": torch.zeros(0, 96, 96)}, nothing]):
        detector.zero_grad()
        losses = detector(images, mixture)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("name", ["atss", "gfl"])
def test_targets_are_left_as_they_were(name):
    images, targets = pictures()
    before = [{key: value.clone() for key, value in target.items()} for target in targets]
    make(name)(images, targets)
    for target, old in zip(targets, before, strict=True):
        assert target.keys() == old.keys()
        assert all(torch.equal(target[key], old[key]) for key in old)


@pytest.mark.parametrize("name", ["atss", "gfl"])
def test_training_without_targets_is_refused(name):
    with pytest.raises(ValueError, match="needs targets"):
        make(name)(pictures()[0])


def code_of(detector, anchors, boxes, strides):
    """What the head must say so that `decode` gives these boxes."""
    if isinstance(detector, ATSS):
        sides, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
        shift = ((boxes[:, :2] + boxes[:, 2:]) - (anchors[:, :2] + anchors[:, 2:])) / 2 / sides / 0.1
        return torch.cat([shift, (wanted / sides).log() / 0.2], 1)
    points = (anchors[:, :2] + anchors[:, 2:]) / 2
    distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1) / strides[:, None]
    left = distances.floor().long()
    share = distances - left
    chance = torch.zeros(len(boxes), 4, BINS + 1)
    chance.scatter_(2, left[..., None], (1 - share)[..., None])
    chance.scatter_(2, left[..., None] + 1, share[..., None])
    return chance.clamp(min=1e-20).log().flatten(1)


@pytest.mark.parametrize("kind", [ATSS, GFL])
def test_a_head_that_says_the_truth_finds_it(kind):
    """Outputs made from the annotation by hand: no box loss, and the objects come back."""
    detector = make("atss" if kind is ATSS else "gfl")
    assert isinstance(detector, kind)
    levels, strides = [144, 36], torch.cat([torch.full((144,), 8.0), torch.full((36,), 16.0)])
    anchors = []
    for stride, count in ((8, 12), (16, 6)):
        for i in range(count):
            for j in range(count):
                x, y = stride * j + 0.1, stride * i + 0.2
                anchors.append([x - 4 * stride, y - 4 * stride, x + 4 * stride, y + 4 * stride])
    anchors = torch.tensor(anchors)
    target = {
        "boxes": torch.tensor([[10.0, 12.0, 60.0, 50.0], [50.0, 40.0, 90.0, 92.0]]),
        "labels": torch.tensor([2, 0]),
    }
    matched = Matched([anchors], levels, [target])
    assert len(matched) > 1
    outputs = {
        "classes": torch.full((1, 180, 3), -12.0),
        "boxes": torch.zeros(1, 180, detector.box_outputs),
        "centerness": torch.full((1, 180, 1), 12.0),
    }
    outputs["classes"][0, matched.location, matched.labels] = 12.0
    at = matched.location
    outputs["boxes"][0, at] = code_of(detector, anchors[at], matched.boxes, strides[at])
    losses = detector.losses(outputs, strides, matched)
    assert losses["boxes"] < 1e-4
    assert losses["classes"] < 1e-3
    scores = detector.scores(outputs)
    found = detector.detect(scores[0], outputs["boxes"][0], anchors, strides, levels, (96, 96))
    order = found["labels"].argsort(descending=True)
    assert found["labels"][order].tolist() == [2, 0]
    torch.testing.assert_close(found["boxes"][order], target["boxes"], atol=1e-2, rtol=0)


def test_small_networks_get_five_levels_too():
    detector = make("atss", model="resnet20")
    assert list(detector.backbone.strides) == [2, 4, 8, 16, 32]
    images, targets = pictures()
    assert sum(detector(images, targets).values()).isfinite()


def test_the_pyramid_has_the_papers_strides():
    assert list(make("atss").backbone.strides) == [8, 16, 32, 64, 128]
    assert list(make("maskrcnn").detector.backbone.strides) == [4, 8, 16, 32, 64]


def test_the_transform_is_torchvisions():
    assert isinstance(make("gfl").transform, GeneralizedRCNNTransform)
