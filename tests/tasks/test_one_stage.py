"""The detectors: torchvision's call, one graph for every batch, losses by their formulas, decoded boxes."""

import math

import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.detection.atss import ATSS
from recursivemix.tasks.detection.create import create_detector
from recursivemix.tasks.detection.gfl import BINS, GFL
from recursivemix.tasks.detection.names import DETECTORS
from recursivemix.tasks.detection.one_stage import Locations, match

NAMES = list(DETECTORS)


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
    locations = Locations(anchors, strides, levels)
    matches = match(locations, [target])
    assert len(matches.image) > 1
    outputs = {
        "classes": torch.full((1, 180, 3), -12.0),
        "boxes": torch.zeros(1, 180, detector.box_outputs),
        "centerness": torch.full((1, 180, 1), 12.0),
    }
    outputs["classes"][0, matches.location, matches.labels] = 12.0
    at = matches.location
    outputs["boxes"][0, at] = code_of(detector, anchors[at], matches.boxes, strides[at])
    losses = detector.losses(outputs, matches)
    assert losses["boxes"] < 1e-4
    assert losses["classes"] < 1e-3
    scores = detector.scores(outputs)
    found = detector.detect(scores[0], outputs["boxes"][0], locations, (96, 96))
    order = found["labels"].argsort(descending=True)
    assert found["labels"][order].tolist() == [2, 0]
    torch.testing.assert_close(found["boxes"][order], target["boxes"], atol=1e-2, rtol=0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_giou(a, b):
    """One minus the generalized IoU, arXiv 1902.09630, algorithm 1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return 1 - shared / union + (hull - union) / hull, shared / union


def slow_losses(kind, outputs, matches, boxes):
    """The losses of ATSS or GFL, location by location: equations of the papers, no tensors."""
    logits = outputs["classes"].tolist()
    positive = list(zip(matches.image.tolist(), matches.location.tolist(), strict=True))
    targets = [[[0.0] * len(row) for row in image] for image in logits]
    box_sum = other_sum = weight_sum = 0.0
    for p, (image, location) in enumerate(positive):
        box, label = matches.boxes[p].tolist(), int(matches.labels[p])
        giou, overlap = slow_giou(boxes[p].tolist(), box)
        x, y = matches.points[p].tolist()
        if kind is ATSS:
            sides = (x - box[0], box[2] - x), (y - box[1], box[3] - y)
            weight = math.sqrt(min(sides[0]) / max(sides[0]) * min(sides[1]) / max(sides[1]))
            central = sigmoid(float(outputs["centerness"][image, location, 0]))
            other_sum -= weight * math.log(central) + (1 - weight) * math.log(1 - central)
            targets[image][location][label] = 1.0
        else:
            weight = max(sigmoid(value) for value in logits[image][location])
            targets[image][location][label] = overlap
            stride = float(matches.strides[p])
            code = outputs["boxes"][image, location].view(4, BINS + 1).log_softmax(1).tolist()
            for side, edge in enumerate(box):
                distance = ((x, y)[side % 2] - edge) / stride * (1 if side < 2 else -1)
                distance = min(max(distance, 0), BINS - 0.1)
                left = int(distance)
                share = distance - left
                bins = -((1 - share) * code[side][left] + share * code[side][left + 1])
                other_sum += weight * bins / 4
        box_sum += weight * giou
        weight_sum += weight
    class_sum = 0.0
    for image, rows in enumerate(logits):
        for location, row in enumerate(rows):
            for k, logit in enumerate(row):
                p, target = sigmoid(logit), targets[image][location][k]
                entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
                alpha = (0.25 if target else 0.75) if kind is ATSS else 1.0
                class_sum += alpha * abs(target - p) ** 2 * entropy
    losses = {"classes": class_sum / len(positive), "boxes": 2 * box_sum / weight_sum}
    if kind is ATSS:
        return losses | {"centerness": other_sum / len(positive)}
    return losses | {"distances": 0.25 * other_sum / weight_sum}


@pytest.mark.parametrize("kind", [ATSS, GFL])
@torch.no_grad()
def test_losses_by_their_formulas(kind):
    detector = make("atss" if kind is ATSS else "gfl")
    images, targets = pictures()
    batch, resized = detector.transform(images, [dict(target) for target in targets])
    features = list(detector.backbone(batch.tensors).values())
    matches = match(detector.locations(batch, features), resized)
    generator = torch.Generator().manual_seed(5)
    outputs = {
        name: value + torch.randn(value.shape, generator=generator)
        for name, value in detector.head(features).items()
    }
    code = outputs["boxes"][matches.image, matches.location]
    boxes = detector.decode(code, matches.anchors, matches.strides)
    losses = {name: float(value) for name, value in detector.losses(outputs, matches).items()}
    assert losses == pytest.approx(slow_losses(kind, outputs, matches, boxes), rel=1e-4)


def test_small_networks_get_five_levels_too():
    detector = make("atss", model="resnet20")
    assert list(detector.backbone.strides) == [2, 4, 8, 16, 32]
    images, targets = pictures()
    assert sum(detector(images, targets).values()).isfinite()


def test_the_pyramid_has_the_papers_strides():
    assert list(make("atss").backbone.strides) == [8, 16, 32, 64, 128]
    assert list(make("maskrcnn").detector.backbone.strides) == [4, 8, 16, 32, 64]


def test_the_heads_of_mask_r_cnn_follow_the_channels():
    """With 256 they are those of the paper, which torchvision builds by default."""
    published = MaskRCNN(make("maskrcnn", channels=256).detector.backbone, 4).roi_heads.state_dict()
    ours = make("maskrcnn", channels=256).detector.roi_heads.state_dict()
    assert {name: one.shape for name, one in ours.items()} == {n: p.shape for n, p in published.items()}
    smaller = make("maskrcnn", channels=32).detector.roi_heads
    assert {smaller.mask_head[0][0].out_channels, smaller.mask_predictor[0].out_channels} == {32}


def test_the_transform_is_torchvisions():
    assert isinstance(make("gfl").transform, GeneralizedRCNNTransform)
