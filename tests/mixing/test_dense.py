"""Dense RecursiveMix against a twin that goes pixel by pixel; boxes, masks and pixels tell one story."""

import pytest
import torch

from recursivemix.mixing import DenseRecursiveMix, DenseTarget, RecursiveMix
from recursivemix.mixing.dense_targets import mask_boxes, uncovered

SIZE = (40, 56)


def scene(seed, size=SIZE, masks=True, count=3):
    """Rectangles that are coded: a pixel is the number of its object, and 0 on the ground."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    image = torch.zeros(1, height, width)
    boxes, drawn = [], []
    for number in range(count):
        w, h = (int(torch.randint(6, 22, (1,), generator=generator)) for _ in range(2))
        x, y = (int(torch.randint(n - s, (1,), generator=generator)) for n, s in ((width, w), (height, h)))
        image[:, y : y + h, x : x + w] = 10 * seed + number + 1
        boxes.append([x, y, x + w, y + h])
    labels = [10 * seed + number + 1 for number in range(count)]
    for label in labels:
        drawn.append(image[0] == label)
    stacked = torch.stack(drawn) if drawn else torch.zeros(0, height, width, dtype=torch.bool)
    tight = mask_boxes(stacked).float() if masks else torch.tensor(boxes).float().view(-1, 4)
    keep = stacked.flatten(1).any(1) if masks else torch.ones(count, dtype=torch.bool)
    target = DenseTarget(tight[keep], torch.tensor(labels, dtype=torch.long)[keep])
    return image, target._replace(masks=stacked[keep]) if masks else target


def mixer(**options):
    return DenseRecursiveMix(**{"interpolation": "nearest", "min_side": 0.0, "min_visible": 0.0} | options)


def step(mix, images, targets):
    batch = mix(images, targets)
    mix.remember(batch)
    return batch


def test_the_draw_is_that_of_classification():
    """Same seed, same boxes, step after step; also where a step before was not mixed."""
    for prob in (1.0, 0.5):
        dense, plain = mixer(seed=3, prob=prob), RecursiveMix(10, seed=3, prob=prob, omega=0)
        for number in range(12):
            image, target = scene(number)
            batch = step(dense, [image] * 2, [target] * 2)
            other = plain(torch.stack([image] * 2), torch.zeros(2, dtype=torch.long))
            plain.remember(other)
            if number:
                assert torch.equal(batch.lam, other.lam)
                own = other.draw.boxes[0]
                if float(batch.lam[0]) < 1:
                    assert torch.equal(batch.boxes[0], own)


def slow_paste(image, source, box):
    """Nearest shrink, pixel by pixel."""
    result = image.clone()
    x1, y1, x2, y2 = box
    height, width = source.shape[-2:]
    for y in range(y1, y2):
        for x in range(x1, x2):
            sy = min(int((y - y1) * height / (y2 - y1) + 1e-6), height - 1)
            sx = min(int((x - x1) * width / (x2 - x1) + 1e-6), width - 1)
            result[..., y, x] = source[..., sy, sx]
    return result


@pytest.mark.parametrize("seed", range(6))
def test_pixels_masks_and_boxes_tell_one_story(seed):
    """Each pixel names its object, so masks and boxes can be read off the mixed image."""
    mix = mixer(seed=seed)
    sizes = [(40, 56), (48, 32)]
    for number in range(6):
        pairs = [scene(2 * number + i, size) for i, size in enumerate(sizes)]
        past = mix.history
        batch = step(mix, [image for image, _ in pairs], [target for _, target in pairs])
        for i, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True)):
            box = batch.boxes[i].tolist()
            if past is not None and float(batch.lam[i]) < 1:
                expected = slow_paste(pairs[i][0], past.images[i], box)
                assert (expected != image).float().mean() < 0.02  # rounding at a few pixels' edges
            seen = {int(v) for v in image.unique()} - {0}
            assert seen == set(target.labels.tolist())
            for label in seen:
                own = target.masks[target.labels == label].any(0)
                assert torch.equal(own, image[0] == label)
            assert torch.equal(mask_boxes(target.masks).float(), target.boxes)


@pytest.mark.parametrize("seed", range(30))
def test_what_lies_outside_of_a_patch(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 14, (8, 2), generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(1, 10, (8, 2), generator=generator)], 1)
    x, y = torch.randint(0, 14, (2,), generator=generator).tolist()
    w, h = torch.randint(1, 14, (2,), generator=generator).tolist()
    target = DenseTarget(boxes.float(), torch.arange(8))
    hidden, small, left = uncovered(target, [x, y, x + w, y + h], 0.0, 0.0)
    assert small == 0
    assert hidden + len(left.boxes) == 8
    found = dict(zip(left.labels.tolist(), left.boxes.tolist(), strict=True))
    for number, box in enumerate(boxes.tolist()):
        pixels = torch.zeros(40, 40, dtype=torch.bool)
        pixels[box[1] : box[3], box[0] : box[2]] = True
        pixels[y : y + h, x : x + w] = False
        assert (number in found) == bool(pixels.any())
        if pixels.any():
            assert found[number] == mask_boxes(pixels[None])[0].tolist()


def test_boxes_without_masks():
    """The same scenes without masks: uncovered boxes stay, covered ones go, pasted ones are scaled."""
    mix = mixer(seed=1, max_area=1.0, min_visible=0.5, min_side=3)
    for number in range(8):
        image, target = scene(number, masks=False)
        past = mix.history
        batch = step(mix, [image], [target])
        found = batch.targets[0]
        if past is None:
            continue
        x1, y1, x2, y2 = batch.boxes[0].tolist()
        scale = torch.tensor([(x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]] * 2)
        kept = 0
        for box, label in zip(past.targets[0].boxes, past.targets[0].labels, strict=True):
            moved = box * scale + torch.tensor([x1, y1] * 2)
            expected = bool(((moved[2:] - moved[:2]) >= 3).all())
            near = (found.boxes - moved).abs().amax(1) < 1e-4
            assert bool((near & (found.labels == label)).any()) == expected
            kept += expected
        for box, label in zip(target.boxes, target.labels, strict=True):
            pixels = torch.zeros(SIZE, dtype=torch.bool)
            bx1, by1, bx2, by2 = box.long().tolist()
            pixels[by1:by2, bx1:bx2] = True
            whole = pixels.sum()
            pixels[y1:y2, x1:x2] = False
            rest = mask_boxes(pixels[None])[0]
            expected = pixels.sum() >= 0.5 * whole and bool(((rest[2:] - rest[:2]) >= 3).all())
            assert bool((found.labels == label).any()) == expected
            kept += expected
            if expected:
                assert torch.equal(found.boxes[found.labels == label][0], rest.float())
        assert len(found.boxes) == kept
    assert sum(mix.stats.values()) > 0


def test_label_maps_are_picked():
    mix = DenseRecursiveMix(seed=2, interpolation="bilinear")
    for number in range(5):
        image, _ = scene(number)
        label_map = image[0].long().byte()
        label_map[0] = 255
        past = mix.history
        batch = step(mix, image[None], label_map[None])
        assert batch.targets.shape == (1, *SIZE)
        assert batch.targets.dtype == torch.uint8
        if past is None:
            continue
        assert set(batch.targets.unique().tolist()) <= set(label_map.unique().tolist()) | set(
            past.targets[0].unique().tolist()
        )
        x1, y1, x2, y2 = batch.boxes[0].tolist()
        outside = torch.ones(SIZE, dtype=torch.bool)
        outside[y1:y2, x1:x2] = False
        assert torch.equal(batch.targets[0][outside], label_map[outside])
        assert float(batch.lam[0]) == pytest.approx(outside.float().mean().item())


def test_what_came_in_stays():
    mix = mixer(max_area=1.0)
    for number in range(4):
        pairs = [scene(number), scene(number + 50)]
        before = [(image.clone(), target.boxes.clone(), target.masks.clone()) for image, target in pairs]
        step(mix, [image for image, _ in pairs], [target for _, target in pairs])
        for (image, target), (pixels, boxes, masks) in zip(pairs, before, strict=True):
            assert torch.equal(image, pixels)
            assert torch.equal(target.boxes, boxes)
            assert torch.equal(target.masks, masks)


@pytest.mark.parametrize("maps", [False, True])
def test_interrupted_is_uninterrupted(maps):
    def batches(start, stop):
        for number in range(start, stop):
            image, target = scene(number)
            yield ([image], [image[0].long()]) if maps else ([image], [target])

    whole, first, second = mixer(seed=5), mixer(seed=5), mixer(seed=9)
    expected = [step(whole, *batch) for batch in batches(0, 8)][4:]
    for batch in batches(0, 4):
        step(first, *batch)
    second.load_state_dict(first.state_dict())
    for batch, other in zip(batches(4, 8), expected, strict=True):
        found = step(second, *batch)
        assert torch.equal(found.images[0], other.images[0])
        assert torch.equal(found.boxes, other.boxes)
        if not maps:
            assert torch.equal(found.targets[0].boxes, other.targets[0].boxes)
    assert second.stats == whole.stats


def test_nothing_in_an_image():
    mix = mixer()
    empty = scene(0, count=0)
    for pair in (empty, scene(1), empty, empty):
        batch = step(mix, [pair[0]], [pair[1]])
        assert batch.targets[0].boxes.shape[1] == 4
        assert len(batch.targets[0].labels) == len(batch.targets[0].boxes)


def test_batches_of_other_sizes():
    mix = mixer(max_area=1.0)
    for count in (2, 4, 1, 3, 2):
        pairs = [scene(i) for i in range(count)]
        earlier = len(mix.history.images) if mix.history else 0
        batch = step(mix, [image for image, _ in pairs], [target for _, target in pairs])
        assert (batch.lam[earlier:] == 1).all()
        assert torch.equal(
            batch.boxes[earlier:], torch.tensor([[0, 0, 56, 40]] * max(0, count - earlier)).view(-1, 4)
        )


def test_a_ruined_image_is_not_remembered():
    mix = mixer(max_area=1.0)
    good, bad = scene(0), scene(1)
    bad[0][0, 0, 0] = float("nan")
    step(mix, [good[0], bad[0]], [good[1], bad[1]])
    for number in range(5):
        batch = mix([scene(number)[0]] * 2, [scene(number)[1]] * 2)
        assert float(batch.lam[1]) == 1
        assert batch.images[1].isfinite().all()


def test_switches():
    mix = mixer()
    image, target = scene(0)
    step(mix, [image], [target])
    mix.training = False
    batch = mix([image], [target])
    assert (batch.lam == 1).all()
    mix.training, mix.enabled = True, False
    assert (step(mix, [image], [target]).lam == 1).all()
    assert mix.history is None
    mix.enabled = True
    step(mix, [image], [target])
    mix.start_epoch()
    assert mix.history is None
    kept = mixer(across_epochs=True)
    step(kept, [image], [target])
    kept.start_epoch()
    assert kept.history is not None


def test_other_targets_than_before_are_not_mixed(caplog):
    mix = mixer()
    image, target = scene(0)
    step(mix, [image], [target])
    assert (mix([image], [image[0].long()]).lam == 1).all()
    assert (mix([image], [target._replace(masks=None)]).lam == 1).all()
    assert "not mixed" in caplog.text


def test_objects_do_not_pile_up():
    mix = mixer(min_side=4, min_visible=0.3)
    most = 0
    for number in range(300):
        image, target = scene(number % 40)
        most = max(most, len(step(mix, [image], [target]).targets[0].boxes))
    assert most < 25


@pytest.mark.parametrize(
    ("images", "targets", "words"),
    [
        ([], [], "at least one"),
        ([torch.zeros(3, 8, 8)], [torch.zeros(8, 8).long()] * 2, "1 images need 1 targets, got 2"),
        ([torch.zeros(8, 8)], [torch.zeros(8, 8).long()], r"must be a \(C, H, W\) tensor"),
        ([torch.zeros(3, 8, 8)], [torch.zeros(8, 7).long()], "as the image"),
        ([torch.zeros(3, 8, 8)], [torch.zeros(8, 8)], "must be integers"),
        ([torch.zeros(3, 8, 8).long()], [torch.zeros(8, 8).long()], "floating or uint8"),
        ([torch.zeros(3, 8, 8)], [{"boxes": 1}], "list of DenseTarget"),
        ([torch.zeros(3, 8, 8)], [DenseTarget(torch.zeros(2, 4), torch.zeros(1))], "labels must be"),
        (
            [torch.zeros(3, 8, 8)],
            [DenseTarget(torch.tensor([[5.0, 5.0, 5.0, 7.0]]), torch.zeros(1).long())],
            "leave out the empty ones",
        ),
        (
            [torch.zeros(3, 8, 8)],
            [DenseTarget(torch.ones(1, 4), torch.zeros(1).long(), torch.zeros(1, 4, 4).bool())],
            "masks must be",
        ),
    ],
)
def test_wrong_input(images, targets, words):
    with pytest.raises(ValueError, match=words):
        mixer()(images, targets)


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_area", 1.5), ("max_area", None), ("prob", -1), ("min_side", -1), ("min_visible", 2)],
)
def test_wrong_options(option, value):
    with pytest.raises(ValueError, match=option):
        DenseRecursiveMix(**{option: value})


def test_a_draw_can_be_replayed():
    mix = mixer()
    step(mix, [scene(0)[0]], [scene(0)[1]])
    first = mix([scene(1)[0]], [scene(1)[1]])
    again = mix([scene(1)[0]], [scene(1)[1]], draw=first.draw)
    other = mix([scene(1)[0]], [scene(1)[1]])
    assert torch.equal(first.images[0], again.images[0])
    assert torch.equal(first.targets[0].boxes, again.targets[0].boxes)
    assert not torch.equal(first.boxes, other.boxes)


def test_a_history_that_was_written_over_is_refused():
    mix = mixer()
    image, target = scene(0)
    step(mix, [image], [target])
    image.zero_()
    with pytest.raises(ValueError, match="written over"):
        mix([scene(1)[0]], [scene(1)[1]])
    maps = torch.zeros(1, 8, 8, dtype=torch.long)
    mix.reset()
    step(mix, torch.rand(1, 3, 8, 8), maps)
    maps.fill_(1)
    with pytest.raises(ValueError, match="written over"):
        mix(torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long))
