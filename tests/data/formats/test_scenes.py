"""The embedded scenes: deterministic, and boxes, masks, label maps and pixels tell the same story."""

import torch

from recursivemix.data.formats.digits import digits
from recursivemix.data.formats.scenes import (
    MOST_DIGITS,
    SIDE,
    make_scene,
    scenes_with_maps,
    scenes_with_objects,
)
from recursivemix.data.order import generator_of


def test_always_the_same():
    data = digits().train
    first, second = (make_scene(data, generator_of("scene", "train", 3)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.objects.boxes, second.objects.boxes)
    assert torch.equal(first.image, scenes_with_objects().train[3][0])


def test_masks_boxes_and_maps_agree():
    objects, maps = scenes_with_objects(masks=True), scenes_with_maps()
    assert maps.classes == ("ground", *objects.classes)
    for split in ("train", "evaluation"):
        own, labelled = getattr(objects, split), getattr(maps, split)
        assert len(own) == len(labelled)
        for i in range(0, len(own), 7):
            image, found = own[i]
            other, label_map = labelled[i]
            assert torch.equal(image, other)
            assert image.shape == (3, SIDE, SIDE)
            assert image.dtype == torch.uint8
            assert 1 <= len(found.boxes) <= MOST_DIGITS
            drawn = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
            for box, label, mask, area in zip(
                found.boxes, found.labels, found.masks, found.area, strict=True
            ):
                rows, columns = mask.nonzero().unbind(1)
                x1, y1, x2, y2 = box.tolist()
                assert 0 <= x1 <= columns.min() <= columns.max() < x2 <= SIDE
                assert 0 <= y1 <= rows.min() <= rows.max() < y2 <= SIDE
                assert area == mask.sum()
                drawn[mask] = label + 1
            assert torch.equal(drawn, label_map)


def test_held_out_scenes_hold_held_out_digits():
    """No digit of the evaluation scenes is one of training: the sources are the splits of the digits."""
    data = scenes_with_objects()
    assert (len(data.train), len(data.evaluation)) == (480, 120)
    assert data.split == "held out"
    every = torch.cat([data.evaluation.objects(i).labels for i in range(120)])
    assert sorted(set(every.tolist())) == list(range(10))


def test_digits_are_seen_against_the_ground():
    """The pixels of a mask differ from those around it in the box."""
    data = scenes_with_objects(masks=True)
    for i in range(0, 480, 40):
        image, found = data.train[i]
        for box, mask in zip(found.boxes.long().tolist(), found.masks, strict=True):
            x1, y1, x2, y2 = box
            inside = mask[y1:y2, x1:x2]
            crop = image[:, y1:y2, x1:x2].float()
            contrast = (crop[:, inside].mean() - crop[:, ~inside].mean()).abs()
            assert contrast > 20
