"""Batches against slow twins, and the promise that they depend on seed, epoch, step and rank alone."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from recursivemix.data.augment import (
    LIGHTING,
    Augmentation,
    CropDraw,
    colour_scale,
    cut_out,
    draw_crops,
    draw_lighting,
    normalise,
    pack,
    training_crop,
    training_transform,
    unpack,
)
from recursivemix.data.batches import EvaluationBatches, TrainingBatches
from recursivemix.data.cache import stack
from recursivemix.data.crop import evaluation_image
from recursivemix.data.images import StackedImages
from recursivemix.data.order import TrainingOrder, evaluation_batches, generator_of, seed_of
from samples import torchvision_evaluation

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def coded(count: int, size: tuple[int, int] = (6, 6)) -> StackedImages:
    """Every pixel of every image is another number, as far as bytes reach."""
    numbers = torch.arange(count * 3 * size[0] * size[1]) * 7919 % 251
    return StackedImages(numbers.byte().view(count, 3, *size), torch.arange(count), "coded")


class Loose:
    """The same images, read one by one: what is not held in memory."""

    def __init__(self, images: StackedImages) -> None:
        self.images = images
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"loose {index}"


def augmentation(**settings: object) -> Augmentation:
    return Augmentation(**({"size": 6, "mean": MEAN, "std": STD, "crop": "pad", "padding": 2} | settings))


def batches_of(images: object, *, hold: bool, epoch: int = 0, workers: int = 0, **settings: object) -> list:
    order = TrainingOrder(len(images), 4, settings.pop("seed", 3), settings.pop("repeats", 1))
    return list(
        TrainingBatches(
            images, order, augmentation(**settings), lambda: epoch, device=CPU, hold=hold, workers=workers
        )
    )


def equal(a: list, b: list) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_are_those_of_torchvision(padding):
    """Twin: torchvision's pad, crop and horizontal flip of one image after the other."""
    images = coded(5, (7, 7)).images
    draw = draw_crops(8, padding, True, torch.Generator().manual_seed(0))
    indices = torch.tensor([0, 4, 2, 2, 1, 3, 0, 4])
    found = unpack(cut_out(pack(images, padding), indices, draw, 7))
    assert found.dtype == torch.uint8
    for i, index in enumerate(indices.tolist()):
        padded = F.pad(images[index], [padding] * 4)
        expected = F.crop(padded, int(draw.top[i]), int(draw.left[i]), 7, 7)
        assert torch.equal(found[i], F.horizontal_flip(expected) if draw.mirrored[i] else expected)


def test_non_square_images_are_cut_at_the_right_place():
    images = coded(2, (5, 9)).images
    zeros = torch.zeros(2, dtype=torch.long)
    draw = CropDraw(zeros, torch.tensor([0, 4]), torch.tensor([False, True]))
    found = unpack(cut_out(pack(images), torch.tensor([0, 1]), draw, 5))
    assert torch.equal(found[0], images[0, :, :, :5])
    assert torch.equal(found[1], images[1, :, :, 4:].flip(-1))


def test_crops_reach_every_place_equally_often():
    draw = draw_crops(90_000, 4, True, torch.Generator().manual_seed(1))
    counts = torch.bincount(draw.top * 9 + draw.left, minlength=81)
    assert counts.min() > 900
    assert counts.max() < 1350
    assert draw.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert not draw_crops(50, 4, False, torch.Generator()).mirrored.any()


def test_colours_are_normalised_as_torchvision_does():
    images = coded(4, (6, 5)).images
    expected = v2.Normalize(MEAN, STD)(v2.ToDtype(torch.float32, scale=True)(images))
    found = normalise(images, colour_scale(MEAN, STD, CPU))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_lighting_shifts_along_the_principal_components():
    """AlexNet, section 4.1: eigenvectors times eigenvalues times a draw of deviation 0.1 for each."""
    vectors = LIGHTING / LIGHTING.norm(dim=0)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        LIGHTING.norm(dim=0), torch.tensor([0.2175, 0.0188, 0.0045]), atol=1e-4, rtol=0
    )
    shift = draw_lighting(100_000, 0.1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shift.T.cov(), 0.01 * LIGHTING @ LIGHTING.T, atol=1e-5, rtol=0.05)
    images = coded(2).images
    scale = colour_scale(MEAN, STD, CPU)
    expected = images.double() / 255 + shift[:2, :, None, None]
    expected = (expected - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(normalise(images, scale, shift[:2]).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("hold", "settings"),
    [
        (True, {}),
        (True, {"lighting": 0.1, "crop": "none"}),
        (False, {}),
        (False, {"crop": "resized", "color_jitter": 0.4, "lighting": 0.1}),
    ],
)
def test_a_batch_depends_on_seed_epoch_and_step_alone(hold, settings):
    images = coded(10) if hold else Loose(coded(10))
    first = batches_of(images, hold=hold, **settings)
    torch.rand(100)  # the global stream is nobody's business
    assert equal(first, batches_of(images, hold=hold, **settings))
    assert not equal(first, batches_of(images, hold=hold, epoch=1, **settings))
    assert not equal(first, batches_of(images, hold=hold, seed=4, **settings))
    assert [len(labels) for _, labels, _ in first] == [4, 4, 2]
    assert sorted(int(label) for _, labels, _ in first for label in labels) == list(range(10))


def test_the_global_stream_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches_of(Loose(coded(10)), hold=False, color_jitter=0.4)
    batches_of(coded(10), hold=True, lighting=0.1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(workers):
    images, settings = Loose(coded(10)), {"crop": "resized", "color_jitter": 0.4}
    here = batches_of(images, hold=False, **settings)
    assert equal(here, batches_of(images, hold=False, workers=workers, **settings))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_memory_of_batches_is_used_again_only_when_they_have_been_used(workers):
    """More batches than slots; an iteration that is given up does not write into the next one."""
    images = Loose(coded(40))
    order = TrainingOrder(40, 2, 3)
    batches = TrainingBatches(
        images, order, augmentation(), lambda: 0, device=CPU, hold=False, workers=workers
    )
    assert len(batches) > len(batches._reader.batches.slots)
    expected = batches_of(images, hold=False)
    given_up = iter(batches)
    for _ in range(3):
        next(given_up)
    for _ in range(2):
        found = torch.cat([batch.images for batch in batches])
        assert torch.equal(found, torch.cat([images for images, _, _ in expected]))


def run_beside_this_file(python: str, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code that can import this file."""
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    words = [python, "-c", code]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.slow
def test_workers_that_are_not_forked_write_into_the_same_memory(python):
    code = """
import multiprocessing, torch
from test_batches import Loose, batches_of, coded, equal

if __name__ == "__main__":
    expected = batches_of(Loose(coded(10)), hold=False)
    multiprocessing.set_start_method("spawn")
    assert equal(expected, batches_of(Loose(coded(10)), hold=False, workers=2))
"""
    done = run_beside_this_file(python, code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks at /dev/shm")
def test_batches_take_no_memory_that_containers_limit(monkeypatch):
    """Not in /dev/shm, which is 64 MB in a container unless it is started with another limit."""

    def refuse(*arguments):
        raise AssertionError("shared memory was taken from /dev/shm")

    for name in ("_new_shared", "_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, name, refuse)
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("workers are not forked here")
    assert equal(
        batches_of(Loose(coded(10)), hold=False), batches_of(Loose(coded(10)), hold=False, workers=2)
    )
    assert torch.equal(stack(Loose(coded(10)), 6, 2, False, "test").images, coded(10).images)


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_an_epoch_can_begin_in_its_middle(hold, first):
    images = coded(10) if hold else Loose(coded(10))
    order = TrainingOrder(10, 4, 3)
    batches = TrainingBatches(images, order, augmentation(lighting=0.1), lambda: 2, device=CPU, hold=hold)
    whole = list(batches)
    batches.first = first
    assert equal(list(batches), whole[first:])
    assert equal(list(batches), whole)  # the next epoch begins at its beginning


def test_copies_of_an_image_differ():
    """Repeated augmentation: the copies stand side by side, each cut by itself."""
    ((_, labels, _), *_) = batches_of(coded(10), hold=True, repeats=2)
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    whole = batches_of(coded(10), hold=True, repeats=2)
    assert sum(len(labels) for _, labels, _ in whole) == 10
    pairs = [(a, b) for images, _, _ in whole for a, b in zip(images[::2], images[1::2], strict=False)]
    assert sum(not torch.equal(a, b) for a, b in pairs) >= 4


def test_a_batch_knows_its_images():
    order = TrainingOrder(10, 4, 3)
    batches = TrainingBatches(Loose(coded(10)), order, augmentation(), lambda: 1, device=CPU, hold=False)
    for step, batch in enumerate(batches):
        assert torch.equal(batch.indices, order.batch(1, step))
        assert torch.equal(batch.indices, batch.targets)  # an image's label is its index


@pytest.mark.parametrize("hold", [True, False])
def test_evaluation_sees_each_image_as_it_is(hold):
    stacked = coded(7)
    images = stacked if hold else Loose(stacked)
    shares = [
        list(
            EvaluationBatches(
                images, evaluation_batches(7, 2, 2, rank), augmentation(), device=CPU, hold=hold
            )
        )
        for rank in range(2)
    ]
    seen = {}
    for share in shares:
        for batch, labels, indices in share:
            assert torch.equal(labels, indices)
            for image, label in zip(batch, labels.tolist(), strict=True):
                assert label == -1 or label not in seen
                seen[label] = image
    assert sorted(seen) == [-1, *range(7)]
    expected = normalise(stacked.images, colour_scale(MEAN, STD, CPU))
    for label in range(7):
        assert torch.equal(seen[label], expected[label])


@pytest.mark.parametrize("hold", [True, False])
def test_several_labels_come_as_multi_hot(hold):
    stacked = coded(7)
    stacked.labels = (torch.arange(7)[:, None] >> torch.arange(3) & 1).byte()  # binary digits of the index
    images = stacked if hold else Loose(stacked)
    for batch in batches_of(images, hold=hold):
        assert batch.targets.dtype == torch.float32
        assert torch.equal(batch.targets, stacked.labels[batch.indices].float())
    batches = evaluation_batches(7, 4, 2, 1)
    last = list(EvaluationBatches(images, batches, augmentation(), device=CPU, hold=hold))[-1]
    assert last.indices.tolist() == [1, 3, 5, -1]
    assert last.targets.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1], [-1, -1, -1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_holds_what_evaluation_reads(workers):
    images = Loose(coded(9, (8, 10)))
    stacked = stack(images, 6, workers, False, "test")
    transform = torchvision_evaluation(6)
    for index in range(9):
        assert torch.equal(stacked[index], transform(images[index]))
        assert stacked.labels[index] == index
    assert stacked.name(3) == "loose 3"
    assert stack(stacked, 6, 0, False, "again") is stacked


def test_large_images_are_cropped_as_the_recipe_says():
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 200, dtype=torch.uint8)
    for settings in ({"crop": "resized"}, {"crop": "none"}, {"crop": "pad", "padding": 8}):
        cutting = augmentation(size=96, color_jitter=0.4, **settings)
        out = training_transform(cutting)(training_crop(cutting)((300, 200)).apply(image))
        assert out.shape == (3, 96, 96)
        assert out.dtype == torch.uint8
    # 7/8 of the short side survive: a frame of 1/16 a side is cut off.
    image[:, :, :12] = image[:, :, -12:] = 255
    assert evaluation_image(image, 224).float().max() < 30


def test_seeds_differ_by_every_part():
    seeds = {
        seed_of(*parts) for parts in [(1, 2), (2, 1), (12,), ("1", 2), (1, "order", 2), (1, "crops", 2)]
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    a, b = (torch.rand(4, generator=generator_of(7, "x")) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "arguments", [{"images": 0}, {"batch_size": 0}, {"repeats": 0}, {"rank": 2, "ranks": 2}]
)
def test_an_order_that_can_not_be(arguments):
    with pytest.raises(ValueError, match="must be"):
        TrainingOrder(**({"images": 4, "batch_size": 2, "seed": 0} | arguments))


def test_no_two_images_share_the_seed_of_their_augmentation():
    """Nor does an image have the same one in two epochs; the keys are the images of the order."""
    seeds = []
    for rank, epoch in itertools.product((0, 1), (0, 1)):
        order = TrainingOrder(11, 3, 0, ranks=2, rank=rank)
        for step in range(order.steps):
            images = order.batch(epoch, step)
            keys = order.keys(epoch, step, images)
            assert [index for index, _ in keys] == images.tolist()
            seeds += [seed for _, seed in keys]
    assert len(set(seeds)) == len(seeds) == 2 * 12


@pytest.mark.slow
def test_workers_leave_no_temporary_files(tmp_path):
    code = """
import torch
from test_batches import Loose, augmentation, coded
from recursivemix.data.batches import Reader

reader = Reader(Loose(coded(4)), augmentation(), 2, training=True, workers=1, device=torch.device("cpu"))
print(sum(1 for _ in reader.read([[(0, 1), (1, 2)], [(2, 3), (3, 4)]])))
"""
    done = run_beside_this_file(sys.executable, code, TMPDIR=str(tmp_path))
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert not list(tmp_path.iterdir())
