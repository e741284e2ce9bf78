"""Losses of the one-stage detectors against their formulas, number by number."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from recursivemix.tasks.detection.losses import (
    centerness,
    distribution_focal_loss,
    iou,
    quality_focal_loss,
)


def boxes_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = 50 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corners, corners + 1 + 40 * torch.rand(count, 2, generator=generator).double()], 1)


def test_iou_is_torchvisions():
    a, b = boxes_of(40, 1), boxes_of(40, 2)
    torch.testing.assert_close(iou(a[:, None], b), box_iou(a, b))


def test_boxes_of_no_area_are_finite():
    point, box = torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    for a, b in ((point, box), (box, point), (point, point)):
        assert iou(a, b).tolist() == [0.0]
        a = a.clone().requires_grad_()
        loss = generalized_box_iou_loss(a, b)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert a.grad.isfinite().all()


@pytest.mark.parametrize(("logit", "quality"), [(0.3, 0.8), (-2.0, 0.0), (4.0, 0.1), (0.0, 1.0)])
def test_quality_focal_loss_by_its_formula(logit, quality):
    p = 1 / (1 + math.exp(-logit))
    expected = abs(quality - p) ** 2 * -(quality * math.log(p) + (1 - quality) * math.log(1 - p))
    found = quality_focal_loss(torch.tensor([logit]).double(), torch.tensor([quality]).double())
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", [0.0, 0.25, 3.0, 5.9])
def test_distribution_focal_loss_by_its_formula(distance):
    logits = torch.randn(8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logs = [float(v) for v in logits.log_softmax(0)]
    left = int(distance)
    expected = -((left + 1 - distance) * logs[left] + (distance - left) * logs[left + 1])
    found = distribution_focal_loss(logits[None], torch.tensor([distance]).double())
    assert found.item() == pytest.approx(expected)


def test_losses_of_nothing():
    assert distribution_focal_loss(torch.zeros(0, 4, 17), torch.zeros(0, 4)).shape == (0, 4)
    assert generalized_box_iou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_centerness():
    box = torch.tensor([0.0, 0.0, 10.0, 20.0])
    points = torch.tensor([[5.0, 10.0], [0.0, 10.0], [2.5, 10.0], [2.0, 4.0]])
    expected = [1.0, 0.0, math.sqrt(2.5 / 7.5), math.sqrt((2 / 8) * (4 / 16))]
    assert centerness(points, box.expand(4, 4)).tolist() == pytest.approx(expected)
