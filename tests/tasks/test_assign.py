"""ATSS's assignment, against a twin that goes through it in plain Python."""

import statistics

import pytest
import torch

from recursivemix.tasks.detection.assign import atss_assign
from recursivemix.tasks.detection.losses import iou


def overlap(a, b):
    """IoU of two boxes given as lists."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / area if area > 0 else 0.0


def slow_assign(anchors, levels, boxes, candidates=9):
    """Algorithm 1 of arXiv 1912.02424, anchor by anchor."""
    owner, best = [-1] * len(anchors), [0.0] * len(anchors)
    for number, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        chosen, first = [], 0
        for length in levels:
            places = range(first, first + length)

            def distance(i, middle=middle):
                x, y = (anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2
                return (x - middle[0]) ** 2 + (y - middle[1]) ** 2

            chosen += sorted(places, key=distance)[:candidates]
            first += length
        overlaps = [overlap(anchors[i], box) for i in chosen]
        spread = statistics.stdev(overlaps) if len(overlaps) > 1 else 0.0
        threshold = statistics.fmean(overlaps) + spread
        for i, value in zip(chosen, overlaps, strict=True):
            x, y = (anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if value >= threshold and inside and (owner[i] < 0 or value > best[i]):
                owner[i], best[i] = number, value
    return owner


def grid(strides, size, shift=0.37):
    """Square anchors of eight strides, level by level; shifted so that no two distances are equal."""
    anchors, levels = [], []
    for stride in strides:
        side, count = 8 * stride, size // stride
        for i in range(count):
            for j in range(count):
                x, y = j * stride + shift * stride * 0.3, i * stride + shift * stride * 0.7
                anchors.append([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
        levels.append(count * count)
    return anchors, levels


@pytest.mark.parametrize("seed", range(20))
def test_as_the_slow_twin(seed):
    generator = torch.Generator().manual_seed(seed)
    anchors, levels = grid((8, 16, 32, 64), 128)
    count = int(torch.randint(1, 12, (1,), generator=generator))
    corners = 100 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    sides = 4 + 90 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corners, corners + sides], 1)
    found = atss_assign(torch.tensor(anchors, dtype=torch.float64), levels, boxes)
    assert found.tolist() == slow_assign(anchors, levels, boxes.tolist())


def test_more_candidates_than_anchors():
    anchors, levels = grid((32, 64), 64)
    assert levels == [4, 1]
    boxes = [[5.0, 5.0, 60.0, 50.0]]
    found = atss_assign(torch.tensor(anchors), levels, torch.tensor(boxes))
    assert found.tolist() == slow_assign(anchors, levels, boxes)


def test_one_anchor_alone():
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    assert atss_assign(anchors, [1], torch.tensor([[2.0, 2.0, 15.0, 15.0]])).tolist() == [0]
    assert atss_assign(anchors, [1], torch.tensor([[20.0, 20.0, 25.0, 25.0]])).tolist() == [-1]


def test_no_objects():
    anchors, levels = grid((8,), 32)
    assert atss_assign(torch.tensor(anchors), levels, torch.zeros(0, 4)).tolist() == [-1] * len(anchors)


def test_a_box_of_no_area_gets_no_anchor_and_spoils_none():
    anchors, levels = grid((8, 16, 32), 64)
    boxes = torch.tensor([[10.0, 10.0, 40.0, 40.0], [30.0, 30.0, 30.0, 30.0], [20.0, 5.0, 20.0, 50.0]])
    found = atss_assign(torch.tensor(anchors), levels, boxes)
    alone = atss_assign(torch.tensor(anchors), levels, boxes[:1])
    assert torch.equal(found, alone)
    assert (found == 0).any()


def test_an_anchor_of_two_objects_gets_the_one_it_overlaps_most():
    anchors, levels = grid((8,), 64)
    boxes = torch.tensor([[0.0, 0.0, 60.0, 60.0], [10.0, 10.0, 62.0, 62.0]])
    found = atss_assign(torch.tensor(anchors), levels, boxes)
    both = [atss_assign(torch.tensor(anchors), levels, boxes[i : i + 1]) >= 0 for i in range(2)]
    shared = both[0] & both[1]
    assert shared.any()
    overlaps = iou(torch.tensor(anchors)[:, None], boxes)
    assert torch.equal(found[shared], overlaps[shared].argmax(1))
