"""`region_pool` against torchvision's RoIAlign, against a slow loop, and against what was pasted.

Shapes are small, odd and unequal, so that swapped axes cannot hide.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.ops import roi_align

from recursivemix.mixing import Draw, RecursiveMix
from recursivemix.models.region import region_pool

# Image (H, W) and map (h, w): strides whole and broken, equal and different in each axis, and maps
# that are finer than their image.
SHAPES = [
    ((32, 32), (4, 4)),
    ((24, 36), (6, 9)),
    ((13, 29), (5, 4)),
    ((37, 11), (7, 3)),
    ((50, 33), (13, 2)),
    ((224, 160), (7, 5)),
    ((225, 97), (15, 7)),
    ((9, 14), (9, 14)),
    ((5, 7), (11, 16)),
    ((17, 6), (1, 5)),
    ((3, 40), (2, 1)),
]


def coded_features(batch: int, channels: int, h: int, w: int) -> Tensor:
    """(batch, channels, h, w), every cell another number in [-1, 1]."""
    count = batch * channels * h * w
    return torch.arange(count, dtype=torch.float64).mul(1.7).sin().float().view(batch, channels, h, w)


def border_boxes(size: tuple[int, int]) -> Tensor:
    """(N, 4): the whole image, boxes at each border and corner, slivers, single pixels, inner boxes."""
    height, width = size
    y, x = height // 3, width // 3
    return torch.tensor(
        [
            (0, 0, width, height),
            (0, 0, x + 1, y + 1),
            (width - x - 1, 0, width, y + 1),
            (0, height - y - 1, x + 1, height),
            (width - x - 1, height - y - 1, width, height),
            (x, 0, width - x, height),
            (0, y, width, height - y),
            (x, 0, x + 1, height),
            (0, y, width, y + 1),
            (0, 0, 1, 1),
            (width - 1, height - 1, width, height),
            (x, y, x + 1, y + 1),
            (x, y, width - x, height - y),
        ]
    )


def drawn_boxes(count: int, size: tuple[int, int]) -> Tensor:
    """(count, 4): boxes with an area anywhere inside the image."""
    generator = torch.Generator().manual_seed(count)
    u = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    limit = torch.tensor([size[1], size[0]])
    start = (u[:, :2] * limit).long()
    extent = (u[:, 2:] * (limit - start)).long() + 1
    return torch.cat([start, torch.minimum(start + extent, limit)], 1)


def torchvision_pool(features: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """torchvision.ops.roi_align of one box a sample; boxes are scaled here, each axis by its own stride."""
    (height, width), (h, w) = image_size, features.shape[-2:]
    scaled = boxes.to(features.dtype) * torch.tensor([w / width, h / height] * 2, dtype=features.dtype)
    rois = [box[None] for box in scaled]
    return roi_align(features, rois, 1, spatial_scale=1.0, sampling_ratio=-1, aligned=True).flatten(1)


def slow_pool(features: Tensor, box: list[int], image_size: tuple[int, int]) -> list[float]:
    """RoIAlign of one (C, h, w) map from its definition (Mask R-CNN, section 3), one point at a time."""
    channels, h, w = features.shape
    cells = features.tolist()
    x1, x2 = (x * w / image_size[1] for x in box[::2])
    y1, y2 = (y * h / image_size[0] for y in box[1::2])
    # A quarter of a millionth off, so that a rounding error adds no point to a side of whole cells.
    down, across = math.ceil(y2 - y1 - 2.5e-7), math.ceil(x2 - x1 - 2.5e-7)
    sums = [0.0] * channels
    for i in range(down):
        for j in range(across):
            # Cell k has its centre at k + 0.5; a point beyond the outer centres sees the border cell.
            y = min(max(y1 + (i + 0.5) * (y2 - y1) / down - 0.5, 0), h - 1)
            x = min(max(x1 + (j + 0.5) * (x2 - x1) / across - 0.5, 0), w - 1)
            top, left = min(int(y), max(h - 2, 0)), min(int(x), max(w - 2, 0))
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            fy, fx = y - top, x - left
            for c in range(channels):
                upper = cells[c][top][left] * (1 - fx) + cells[c][top][right] * fx
                lower = cells[c][bottom][left] * (1 - fx) + cells[c][bottom][right] * fx
                sums[c] += upper * (1 - fy) + lower * fy
    return [s / max(down * across, 1) for s in sums]


@pytest.mark.parametrize(("image_size", "map_size"), SHAPES)
@pytest.mark.parametrize("make_boxes", [border_boxes, lambda size: drawn_boxes(60, size)])
def test_equals_torchvision_forward_and_backward(image_size, map_size, make_boxes):
    """Reference: torchvision.ops.roi_align, aligned=True, sampling_ratio=-1, output 1x1."""
    boxes = make_boxes(image_size)
    ours = coded_features(len(boxes), 3, *map_size).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    pooled, expected = region_pool(ours, boxes, image_size), torchvision_pool(theirs, boxes, image_size)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)

    weights = coded_features(1, 1, *pooled.shape)[0, 0]
    (pooled * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cells", range(1, 30))
def test_a_constant_map_pools_to_its_constant(cells):
    """At every stride, also where rounding asks for one sample point more than there are cells."""
    lengths = range(1, 130)
    pooled = [
        region_pool(torch.full((1, 1, cells, 2), 3.0), torch.tensor([[0, 0, 5, n]]), (n, 5))
        for n in lengths
    ]
    torch.testing.assert_close(torch.cat(pooled), torch.full((len(lengths), 1), 3.0))


@pytest.mark.parametrize(
    ("image_size", "map_size"),
    [((5, 7), (3, 5)), ((7, 5), (3, 5)), ((9, 4), (9, 4)), ((8, 6), (1, 3)), ((3, 4), (5, 7))],
)
def test_equals_a_slow_loop(image_size, map_size):
    """Reference: `slow_pool`, over every box of a tiny image."""
    height, width = image_size
    boxes = torch.tensor(
        [
            (x1, y1, x2, y2)
            for x1 in range(width)
            for x2 in range(x1 + 1, width + 1)
            for y1 in range(height)
            for y2 in range(y1 + 1, height + 1)
        ]
    )
    features = coded_features(1, 2, *map_size)
    pooled = region_pool(features.expand(len(boxes), -1, -1, -1), boxes, image_size)
    expected = torch.tensor([slow_pool(features[0], box, image_size) for box in boxes.tolist()])
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


def test_the_whole_image_is_the_mean_of_the_map():
    features = coded_features(2, 3, 5, 7)
    pooled = region_pool(features, torch.tensor([[0, 0, 70, 50]] * 2), (50, 70))
    torch.testing.assert_close(pooled, features.mean((2, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("box", [(4, 3, 4, 9), (4, 3, 9, 3), (0, 0, 0, 0), (20, 10, 20, 10)])
def test_an_empty_box_gives_zeros_and_no_gradient(box):
    features = coded_features(2, 3, 5, 7).requires_grad_()
    boxes = torch.tensor([box, (0, 0, 20, 10)])
    pooled = region_pool(features, boxes, (10, 20))
    assert torch.equal(pooled[0], torch.zeros(3))
    assert pooled[1].abs().min() > 0
    pooled.sum().backward()
    assert not features.grad[0].any()
    assert features.grad[1].all()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 1e-6)]
)
@pytest.mark.parametrize(("image_size", "map_size"), SHAPES[:6])
def test_other_dtypes_follow_float32(dtype, tolerance, image_size, map_size):
    """Reference: the float32 result for the same, already rounded, features."""
    boxes = torch.cat([border_boxes(image_size), drawn_boxes(20, image_size)])
    narrow = coded_features(len(boxes), 3, *map_size).to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    pooled, expected = region_pool(narrow, boxes, image_size), region_pool(wide, boxes, image_size)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled.float(), expected, atol=tolerance, rtol=tolerance)
    pooled.float().sum().backward()
    expected.sum().backward()
    assert narrow.grad.dtype == dtype
    torch.testing.assert_close(narrow.grad.float(), wide.grad, atol=tolerance, rtol=tolerance)


def test_gradient_is_the_numeric_one():
    """Reference: torch.autograd.gradcheck, in float64."""
    features = coded_features(3, 2, 4, 3).double().requires_grad_()
    boxes = torch.tensor([(0, 0, 9, 7), (2, 1, 5, 6), (8, 6, 9, 7)])
    assert torch.autograd.gradcheck(lambda f: region_pool(f, boxes, (7, 9)), features)


def test_is_deterministic():
    """Bitwise equal runs with torch.use_deterministic_algorithms(True), which bans other kernels."""
    boxes = drawn_boxes(8, (37, 53))
    runs = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            features = coded_features(8, 4, 5, 7).requires_grad_()
            pooled = region_pool(features, boxes, (37, 53))
            pooled.square().sum().backward()
            runs.append((pooled.detach(), features.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_writes_into_neither_argument_and_takes_any_integer_or_float_boxes():
    features, boxes = coded_features(6, 3, 5, 7), drawn_boxes(6, (20, 30))
    kept = features.clone(), boxes.clone()
    pooled = region_pool(features, boxes, (20, 30))
    assert torch.equal(features, kept[0])
    assert torch.equal(boxes, kept[1])
    assert torch.equal(region_pool(features, boxes.int(), (20, 30)), pooled)
    assert torch.equal(region_pool(features, boxes.float(), (20, 30)), pooled)


def test_samples_and_memory_formats_do_not_matter():
    """A batch is its samples one by one, and channels-last features are the same features."""
    features, boxes = coded_features(5, 3, 6, 7), drawn_boxes(5, (20, 30))
    pooled = region_pool(features, boxes, (20, 30))
    single = [region_pool(features[i : i + 1], boxes[i : i + 1], (20, 30)) for i in range(5)]
    torch.testing.assert_close(torch.cat(single), pooled)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(region_pool(last, boxes, (20, 30)), pooled)


@pytest.mark.parametrize(
    ("features", "boxes"),
    [((2, 3, 5), (2, 4)), ((2, 3, 5, 7), (3, 4)), ((2, 3, 5, 7), (2, 5)), ((2, 3, 5, 7), (4,))],
)
def test_other_shapes_are_refused_by_name(features, boxes):
    with pytest.raises(ValueError, match=r"takes \(B, C, h, w\) features and \(B, 4\) boxes, got") as error:
        region_pool(torch.zeros(features), torch.zeros(boxes), (10, 14))
    assert str(features) in str(error.value)
    assert str(boxes) in str(error.value)


# The authors' first release swapped the axes of its boxes: on each of these, a transposed box lies
# elsewhere. Sides of eight pixels and more, so that an inner cell exists at stride 4.
PATCHES = [(24, 4, 40, 12), (0, 0, 12, 24), (28, 8, 48, 24), (4, 12, 36, 20), (0, 16, 8, 24)]


@pytest.mark.parametrize("box", PATCHES)
@pytest.mark.parametrize("stride", [1, 4])
def test_sees_the_pasted_patch_and_nothing_else(box, stride):
    """Current images hold 0, the history 1: inside the box of a mixed batch there is the history alone."""
    size = (24, 48)
    mixer = RecursiveMix(num_classes=4)
    labels = torch.tensor([0, 1])
    mixer.remember(mixer(torch.ones(2, 1, *size), labels), torch.zeros(2, 4))
    batch = mixer(torch.zeros(2, 1, *size), labels, draw=Draw(boxes=torch.tensor([box])))
    assert torch.equal(batch.boxes, torch.tensor([box] * 2))

    features = avg_pool2d(batch.images, stride)  # at stride 1 the image itself
    x1, y1, x2, y2 = box
    share = (x2 - x1) * (y2 - y1) / (size[0] * size[1])
    assert features.mean().item() == pytest.approx(share)
    torch.testing.assert_close(region_pool(features, batch.boxes, size), torch.ones(2, 1))

    transposed = batch.boxes[:, [1, 0, 3, 2]]
    assert (region_pool(features, transposed, size) < 0.9).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stride", [1, 4])
def test_sees_the_patch_of_every_draw(seed, stride):
    """Any drawn box, one for each sample: history 1, current image 0, so the region's value is near 1.

    At stride 1 it is exactly the patch. At stride 4 a box cuts through cells, which hold both.
    """
    size = (40, 96)
    mixer = RecursiveMix(num_classes=4, per_sample=True, seed=seed)
    labels = torch.zeros(16, dtype=torch.long)
    mixer.remember(mixer(torch.ones(16, 1, *size), labels), torch.zeros(16, 4))
    batch = mixer(torch.zeros(16, 1, *size), labels)
    sides = batch.boxes[:, 2:] - batch.boxes[:, :2]
    large = (sides >= 3 * stride).all(1) & (batch.lam < 1)
    assert large.sum() > 8
    pooled = region_pool(avg_pool2d(batch.images, stride), batch.boxes, size)[large]
    # Thousands of equal float32 terms add up to 1 within 1e-4; one foreign pixel row would take 1e-2.
    assert (pooled > (1 - 1e-4 if stride == 1 else 0.7)).all()
    torch.testing.assert_close(batch.targets[:, 0], torch.ones(16))


@pytest.mark.parametrize("box", PATCHES)
def test_gradient_reaches_the_patch_alone(box):
    size = (24, 48)
    features = torch.zeros(1, 1, *size, requires_grad=True)
    region_pool(features, torch.tensor([box]), size).sum().backward()
    x1, y1, x2, y2 = box
    expected = torch.zeros(1, 1, *size)
    expected[..., y1:y2, x1:x2] = 1 / ((x2 - x1) * (y2 - y1))
    torch.testing.assert_close(features.grad, expected)
