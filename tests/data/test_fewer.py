"""A part of the training images: every class its share, always the same for a seed."""

import pytest
import torch

from recursivemix.data.images import StackedImages, Subset, fewer
from recursivemix.data.open import open_data
from recursivemix.data.order import generator_of

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


def stacked() -> StackedImages:
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 4, 4).clone()
    return StackedImages(images, LABELS, "test")


@pytest.mark.parametrize(("count", "shares"), [(10, [6, 3, 1]), (50, [30, 15, 5]), (100, [60, 30, 10])])
def test_every_class_has_its_share(count, shares):
    chosen = fewer(stacked(), count, generator_of(0))
    assert isinstance(chosen, StackedImages)
    assert len(chosen) == count
    assert torch.bincount(chosen.labels).tolist() == shares
    assert len(set(chosen.images[:, 0, 0, 0].tolist())) == count  # each image once
    for i in range(count):  # with its own label and name
        original = int(chosen.images[i, 0, 0, 0])
        assert chosen.label(i) == LABELS[original]
        assert chosen.name(i) == f"test, image {original}"


@pytest.mark.parametrize("count", range(3, 40))
def test_shares_are_within_one_image(count):
    labels = fewer(stacked(), count, generator_of(count)).labels
    for label, size in enumerate((60, 30, 10)):
        assert abs(int((labels == label).sum()) - count * size / 100) <= 1.5
        assert (labels == label).any()


def test_the_seed_chooses():
    first, again, other = (fewer(stacked(), 20, generator_of(seed)).images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, 2, 101])
def test_too_few_or_too_many_are_named(count):
    with pytest.raises(ValueError, match=rf"--train-images must be .* 3 classes .* the 100 .* got {count}"):
        fewer(stacked(), count, generator_of(0))


def test_a_folder_stays_on_the_disk_and_its_evaluation_whole(image_root):
    images = open_data(image_root, train_images=9, seed=3)
    assert isinstance(images.train, Subset)
    assert len(images.train) == 9
    assert len(images.evaluation) == 15
    for i in range(9):
        pixels, label = images.train[i]
        assert label == images.train.label(i)
        assert f"/{images.classes[label]}/" in images.train.name(i)
        assert pixels.shape == (3, 16, 16)
