"""Batches of annotated images: pure functions of their step, mirrored and cropped with their targets."""

import pytest
import torch
from torch.nn.functional import interpolate

from recursivemix.data import annotated_batches
from recursivemix.data.annotated import IGNORE, Objects
from recursivemix.data.annotated_batches import (
    AnnotatedBatch,
    AnnotatedEvaluation,
    AnnotatedTraining,
    DetectionTransform,
    SegmentationTransform,
    joined,
    mirrored,
    resized,
    resized_map,
    separated,
)
from recursivemix.data.formats.scenes import scenes_with_maps, scenes_with_objects
from recursivemix.data.order import TrainingOrder, evaluation_batches

CPU = torch.device("cpu")


def training(data, transform, epoch=0, workers=0, seed=0):
    order = TrainingOrder(len(data.train), 6, seed)
    return AnnotatedTraining(data.train, order, transform, lambda: epoch, device=CPU, workers=workers)


def same(batch, other):
    assert batch.indices == other.indices
    assert all(torch.equal(a, b) for a, b in zip(batch.images, other.images, strict=True))
    for a, b in zip(batch.targets, other.targets, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        else:
            assert all(p is q is None or torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_begin_in_its_middle(workers):
    data = scenes_with_objects(masks=True)
    whole = list(training(data, DetectionTransform(flip=True)))
    batches = training(data, DetectionTransform(flip=True), workers=workers)
    batches.first = 77
    rest = list(batches)
    assert len(rest) == len(whole) - 77 == len(batches) - 77
    for a, b in zip(rest, whole[77:], strict=True):
        same(a, b)
    assert batches.first == 0


@pytest.mark.parametrize("kind", ["boxes", "masks", "maps"])
def test_a_worker_hands_over_few_tensors(kind):
    """Each takes open files, of which a process may have 1,024: a loader of more waits for ever."""
    images = (scenes_with_maps() if kind == "maps" else scenes_with_objects(kind == "masks")).evaluation
    samples = [(index, *images[index]) for index in range(5)]
    if kind != "maps":
        empty = Objects(*(None if part is None else part[:0] for part in samples[2][2]))
        samples[2] = (2, samples[2][1][:, :7], empty)
    packed = joined(samples)
    assert len(packed.values) <= 4
    for (index, image, target), (i, other, twin) in zip(separated(packed), samples, strict=True):
        same(AnnotatedBatch([image], [target], [index]), AnnotatedBatch([other], [twin], [i]))
    assert separated(joined([])) == []


def test_samples_are_joined_for_workers_alone(monkeypatch):
    """Without them joining only copies; the memory format of images is the same."""
    data = scenes_with_objects(masks=True)
    images = [
        image.movedim(0, -1).contiguous().movedim(-1, 0)
        for image, _ in map(data.train.__getitem__, range(8))
    ]
    turned = [(image, data.train[i][1]) for i, image in enumerate(images)]
    batches = evaluation_batches(8, 4, 1, 0)
    worker = next(iter(AnnotatedEvaluation(turned, batches, device=CPU, workers=1)))
    monkeypatch.setattr(annotated_batches, "joined", None)
    here = next(iter(AnnotatedEvaluation(turned, batches, device=CPU, workers=0)))
    same(here, worker)
    assert [image.stride() for image in here.images] == [image.stride() for image in worker.images]


def test_epochs_and_seeds_differ():
    data = scenes_with_maps()
    transform = SegmentationTransform(96, flip=False)
    first = next(iter(training(data, transform)))
    for other in (training(data, transform, epoch=1), training(data, transform, seed=1)):
        images = next(iter(other)).images
        assert not all(torch.equal(a, b) for a, b in zip(first.images, images, strict=True))


def test_mirrored_objects_are_where_their_pixels_are():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:9, 3:11] = 200
    mask = image[:1] > 0
    objects = Objects(
        torch.tensor([[3.0, 4.0, 11.0, 9.0]]),
        torch.tensor([1]),
        torch.tensor([False]),
        torch.tensor([40.0]),
        mask,
    )
    moved = mirrored(objects, 30)
    x1, y1, x2, y2 = moved.boxes[0].long().tolist()
    flipped = image.flip(-1)
    assert (flipped[:, y1:y2, x1:x2] == 200).all()
    assert flipped.sum() == 200 * 3 * (x2 - x1) * (y2 - y1)
    assert torch.equal(moved.masks, flipped[:1] > 0)
    again = mirrored(moved, 30)
    assert torch.equal(again.boxes, objects.boxes)


def test_half_of_the_images_are_mirrored():
    transform = DetectionTransform(flip=True)
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).repeat(3, 1, 1)
    objects = Objects(torch.zeros(0, 4), *(torch.zeros(0) for _ in range(3)))
    flipped = 0
    for seed in range(400):
        found, _ = transform(image, objects, torch.Generator().manual_seed(seed))
        flipped += not torch.equal(found, image)
    assert 160 < flipped < 240


@pytest.mark.parametrize("size", [(40, 60), (64, 32), (16, 16)])
def test_crops_of_a_map_belong_to_their_pixels(size):
    """Pixels coded as their class: whatever scale and place, image and label map agree but at edges."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (1, 1, 4, 4), generator=generator).float()
    label_map = interpolate(classes, size=size, mode="nearest")[0, 0].byte()
    image = (label_map * 60).expand(3, -1, -1).contiguous()
    transform = SegmentationTransform(32, flip=True)
    for seed in range(30):
        found, crop = transform(image, label_map, torch.Generator().manual_seed(seed))
        assert found.shape == (3, 32, 32)
        assert crop.shape == (32, 32)
        known = crop != IGNORE
        assert known.any()
        wrong = (found[0].float() - 60 * crop.float()).abs()[known] > 30
        assert wrong.float().mean() < 0.3


def test_crops_avoid_one_class_alone():
    label_map = torch.zeros(64, 64, dtype=torch.uint8)
    label_map[:, 40:] = 1
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    transform = SegmentationTransform(32, flip=False, scales=(1.0, 2.0))
    lone = 0
    for seed in range(100):
        _, crop = transform(image, label_map, torch.Generator().manual_seed(seed))
        lone += int(crop.float().mean() in (0.0, 1.0))
    assert lone < 25


def test_resizing_labels_makes_no_new_ones():
    label_map = torch.tensor([[0, 7], [IGNORE, 3]], dtype=torch.uint8)
    found = resized_map(label_map, 9)
    assert set(found.flatten().tolist()) == {0, 3, 7, IGNORE}
    assert resized(label_map.expand(3, 2, 2), 9).shape == (3, 9, 9)


def test_evaluation_gives_every_image_once():
    data = scenes_with_objects()
    seen = []
    for rank in range(2):
        batches = evaluation_batches(len(data.evaluation), 7, ranks=2, rank=rank)
        evaluation = AnnotatedEvaluation(data.evaluation, batches, device=CPU, workers=0)
        for images, targets, indices in evaluation:
            assert len(indices) == len(images) == len(targets)
            seen += indices
    assert sorted(seen) == list(range(len(data.evaluation)))


def test_an_empty_batch_is_empty():
    data = scenes_with_objects()
    batches = AnnotatedEvaluation(data.evaluation, [torch.tensor([-1])], device=CPU, workers=0)
    assert list(batches) == [([], [], [])]
