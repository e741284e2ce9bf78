"""mIoU, mAcc and aAcc against sets of pixels; and the segmenter's heads and loss."""

import math

import pytest
import torch

from recursivemix.data.annotated import IGNORE
from recursivemix.tasks.backbone_weights import load_backbone
from recursivemix.tasks.segmentation.metrics import RegionOverlap
from recursivemix.tasks.segmentation.model import Segmenter, segmentation_loss
from recursivemix.tasks.segmentation.names import HEADS


def slow_overlap(predicted, truth, classes):
    """By sets of pixel places."""
    places = [i for i, t in enumerate(truth) if t != IGNORE]
    ious, accuracies = [], []
    for k in range(classes):
        own = {i for i in places if truth[i] == k}
        found = {i for i in places if predicted[i] == k}
        if own | found:
            ious.append(len(own & found) / len(own | found))
        if own:
            accuracies.append(len(own & found) / len(own))
    right = sum(predicted[i] == truth[i] for i in places) / len(places)
    return {
        "miou": 100 * sum(ious) / len(ious),
        "macc": 100 * sum(accuracies) / len(accuracies),
        "aacc": 100 * right,
    }


@pytest.mark.parametrize("seed", range(5))
def test_overlap_as_by_sets(seed):
    generator = torch.Generator().manual_seed(seed)
    classes = 6
    metric = RegionOverlap(classes)
    seen, known = [], []
    for size in ((7, 9), (4, 4), (12, 5)):
        truth = torch.randint(classes - 2, size, generator=generator)
        predicted = torch.where(
            torch.rand(size, generator=generator) < 0.6,
            truth,
            torch.randint(classes - 1, size, generator=generator),
        )
        truth[torch.rand(size, generator=generator) < 0.2] = IGNORE
        metric.update(predicted, truth.byte())
        seen += predicted.flatten().tolist()
        known += truth.flatten().tolist()
    found = metric.compute()
    expected = slow_overlap(seen, known, classes)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["iou"][classes - 1])  # neither there nor predicted
    metric.reset()
    assert metric.confmat.sum() == 0


# -- the network -----------------------------------------------------------------------------------


def make(head="upernet", model="resnet10t", classes=5):
    body = load_backbone("random", model).backbone
    return Segmenter(body, body.channels, body.strides, classes, head, width=16, multiple=body.multiple)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("model", ["resnet10t", "resnet20", "vit_tiny_patch16_224"])
def test_logits_for_every_pixel(head, model):
    network = make(head, model)
    size = (65, 97)
    images = torch.randn(2, 3, *size)
    logits, aux = network(images)
    assert logits.shape == aux.shape == (2, 5, *size)
    maps = torch.randint(5, (2, *size)).byte()
    sum(segmentation_loss(logits, aux, maps, 0.4).values()).backward()
    lacking = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    # PSPNet's decoder sees the last map alone; the finer ones are on the way to it.
    assert lacking == []
    network.eval()
    with torch.no_grad():
        assert network(images[:1]).shape == (1, 5, *size)


def test_the_decoders_are_the_librarys():
    from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
    from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

    assert isinstance(make("upernet").decoder, UPerNetDecoder)
    assert isinstance(make("pspnet").decoder, PSPDecoder)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        make()(torch.randn(1, 3, 64, 64))


def test_too_few_maps():
    body = load_backbone("random", "resnet10t").backbone
    with pytest.raises(ValueError, match="at least 2 feature maps"):
        Segmenter(body, [64], [4], 3)


def test_the_loss_by_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits, aux = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    maps = torch.randint(3, (2, 4, 5), generator=generator).byte()
    maps[0, :2] = IGNORE
    found = segmentation_loss(logits, aux, maps, 0.4)
    for own, name, weight in ((logits, "decode", 1.0), (aux, "aux", 0.4)):
        total, count = 0.0, 0
        for b in range(2):
            for y in range(4):
                for x in range(5):
                    if maps[b, y, x] != IGNORE:
                        total -= float(own[b, :, y, x].log_softmax(0)[int(maps[b, y, x])])
                        count += 1
        assert float(found[name]) == pytest.approx(weight * total / count, rel=1e-5)


def test_nothing_but_ignored_pixels():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    losses = segmentation_loss(logits, logits, torch.full((2, 4, 5), IGNORE), 0.4)
    sum(losses.values()).backward()
    assert float(sum(losses.values()).detach()) == 0
    assert (logits.grad == 0).all()
