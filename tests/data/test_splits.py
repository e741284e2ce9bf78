"""Stratified splits: held-out shares, folds, and subsets; always the same for a seed."""

import shutil
from collections import Counter

import pytest
import torch

from recursivemix.data.images import EncodedImages
from recursivemix.data.open import open_data
from recursivemix.data.order import generator_of
from recursivemix.data.settings import ImageSettings
from recursivemix.data.splits import held_out, stratified_subset, without_fold
from samples import write_images

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=generator_of("labels"))]
CLASSES = ("a", "b", "c")


def counts(indices, labels=LABELS):
    return [int((labels[indices] == label).sum()) for label in range(3)]


# -- a held-out share -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_share_leaves_images_on_both_sides(share):
    kept, held = held_out(torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b"), share, seed=0)
    for part in (kept, held):
        assert {index % 2 for index in part.tolist()} == {0, 1}
    assert sorted(kept.tolist() + held.tolist()) == list(range(6))


def test_nothing_to_hold_out_is_named():
    """An image of several labels may be the only one of its rarest label, unless all are."""
    kept, held = held_out(torch.tensor([[1, 0], [0, 1], [0, 1]]), ("a", "b"), 0.5, seed=0)
    assert (len(kept), len(held)) == (2, 1)
    with pytest.raises(ValueError, match="no two images share their rarest label"):
        held_out(torch.eye(3, dtype=torch.uint8), CLASSES, 0.5, seed=0)


def test_a_share_is_of_every_class():
    kept, held = held_out(LABELS, CLASSES, 0.2, seed=1)
    assert (counts(kept), counts(held)) == ([48, 24, 8], [12, 6, 2])


# -- folds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [2, 3, 7, 10])
def test_folds_are_a_stratified_partition(folds):
    """Every image is evaluated once; folds and their classes differ in size by one image at most."""
    splits = [without_fold(LABELS, CLASSES, folds, fold, seed=5) for fold in range(folds)]
    evaluated = Counter(index for _, held in splits for index in held.tolist())
    assert evaluated == Counter(range(100))
    for kept, held in splits:
        assert sorted(kept.tolist() + held.tolist()) == list(range(100))
        assert len(held) in (100 // folds, -(-100 // folds))
        for count, total in zip(counts(held), (60, 30, 10), strict=True):
            assert count in (total // folds, -(-total // folds))


def test_folds_depend_on_the_seed_alone():
    torch.manual_seed(9)
    first = without_fold(LABELS, CLASSES, 5, 2, seed=5)[1]
    torch.manual_seed(10)
    assert torch.equal(first, without_fold(LABELS, CLASSES, 5, 2, seed=5)[1])
    assert not torch.equal(first, without_fold(LABELS, CLASSES, 5, 2, seed=6)[1])


def test_a_class_smaller_than_the_folds_is_refused():
    with pytest.raises(ValueError, match=r"class 'c' has 10 images, fewer than --folds 11: .* at most 10"):
        without_fold(LABELS, CLASSES, 11, 0, seed=0)


def test_folds_of_a_folder(image_root):
    flat = image_root / "train"
    folds = [open_data(flat, folds=3, fold=fold, seed=4) for fold in range(3)]
    names = [{data.evaluation.name(i) for i in range(len(data.evaluation))} for data in folds]
    assert [len(part) for part in names] == [12, 12, 12]
    assert len(set.union(*names)) == 36
    for data, held in zip(folds, names, strict=True):
        assert data.split == "held out"
        assert not held & {data.train.name(i) for i in range(len(data.train))}
    with pytest.raises(ValueError, match="has a val split, so --folds has nothing to split"):
        open_data(image_root, folds=3)


def test_held_out_training_images_replace_the_other_split(image_root):
    data, again, other = (open_data(image_root, holdout=0.25, seed=seed) for seed in (1, 1, 2))
    train, held = ({part.name(i) for i in range(len(part))} for part in (data.train, data.evaluation))
    assert (len(train), len(held), data.split) == (27, 9, "held out")
    assert torch.bincount(data.evaluation.labels).tolist() == [3, 3, 3]
    assert not train & held
    assert all("/train/" in name for name in train | held)
    assert {again.evaluation.name(i) for i in range(9)} == held
    assert {other.evaluation.name(i) for i in range(9)} != held


def test_held_out_training_images_are_those_of_val_split_where_there_is_no_other(image_root):
    one = open_data(image_root / "train", holdout=0.25, seed=3)
    other = open_data(image_root / "train", val_split=0.25, seed=3)
    for a, b in ((one.train, other.train), (one.evaluation, other.evaluation)):
        assert [a.name(i) for i in range(len(a))] == [b.name(i) for i in range(len(b))]


def test_training_images_of_the_digits_are_held_out_too():
    whole, data = open_data(), open_data(holdout=0.2)
    assert len(data.train) + len(data.evaluation) == len(whole.train)
    assert all("train" in data.evaluation.name(i) for i in range(len(data.evaluation)))


def test_other_splits_are_not_read_if_training_images_are_held_out(tmp_path, image_root):
    """Neither their classes nor their files have to be usable."""
    shutil.rmtree(image_root / "val" / "red")
    assert len(open_data(image_root, holdout=0.25).train) == 27
    rows = [f"train/{name}/{i}.png,{name},train" for name in ("red", "blue") for i in range(4)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["image,label,split", *rows, "gone.png,none,test"]))
    with pytest.raises(ValueError, match=r"gone\.png\): the file does not exist"):
        open_data(image_root, table=table)
    assert len(open_data(image_root, table=table, holdout=0.25).train) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "no labelled val or test split"), ({"val_split": 0.5}, "--skip-bad leaves no image")],
)
def test_all_images_are_decoded_once_a_split_is_known(image_root, monkeypatch, options, message):
    """Else ``--skip-bad`` takes hours before it says that ``--val-split`` is missing."""
    monkeypatch.setattr("recursivemix.data.splits.map_decoding", lambda *_, **__: ["bad"] * 36)
    with pytest.raises(ValueError, match=message):
        open_data(image_root / "train", skip_bad=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds must be at least 2, got 1"),
        ({"fold": 2}, "--fold 2 needs the number of folds"),
        ({"folds": 3, "fold": 3}, r"--fold must be in 0\.\.2 for --folds 3, got 3"),
        ({"folds": 3, "val_split": 0.1}, "--folds and --val-split both"),
        ({"holdout": 0.1, "val_split": 0.1}, "--val-split and --holdout both"),
        ({"holdout": 0.0}, r"--holdout is a share of each class and must be in \(0, 1\), got 0"),
        ({"val_split": 1.0}, r"--val-split .* must be in \(0, 1\), got 1"),
        ({"image_size": 0}, "--image-size must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings(**options)


# -- a part of the training images ------------------------------------------------------------------


@pytest.mark.parametrize(("count", "shares"), [(10, [6, 3, 1]), (50, [30, 15, 5]), (100, [60, 30, 10])])
def test_every_class_has_its_share(count, shares):
    chosen = stratified_subset(LABELS, count, generator_of(0))
    assert counts(chosen) == shares
    assert chosen.tolist() == sorted(set(chosen.tolist()))  # each image once, in the order of the data set


@pytest.mark.parametrize("count", range(3, 40))
def test_shares_are_within_one_image(count):
    labels = LABELS[stratified_subset(LABELS, count, generator_of(count))]
    for label, size in enumerate((60, 30, 10)):
        assert abs(int((labels == label).sum()) - count * size / 100) <= 1.5
        assert (labels == label).any()


def test_the_seed_chooses():
    first, again, other = (stratified_subset(LABELS, 20, generator_of(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [0, 2, 101])
def test_too_few_or_too_many_are_named(count):
    with pytest.raises(ValueError, match=rf"--train-images must be in 3\.\.100 .*, got {count}"):
        stratified_subset(LABELS, count, generator_of(0))


def test_a_folder_stays_on_the_disk_and_its_evaluation_whole(image_root):
    images = open_data(image_root, train_images=9, seed=3)
    assert isinstance(images.train, EncodedImages)
    assert len(images.train) == 9
    assert len(images.evaluation) == 15
    for i in range(9):
        assert f"/{images.classes[images.train.labels[i]]}/" in images.train.name(i)
        assert images.train[i].shape == (3, 16, 16)


def test_digits_keep_label_and_name():
    whole, part = (open_data(train_images=count).train for count in (None, 50))
    indices = stratified_subset(whole.labels, 50, generator_of(0, "train images"))
    for i, index in enumerate(indices.tolist()):
        assert torch.equal(part[i], whole[index])
        assert part.labels[i] == whole.labels[index]
        assert part.name(i) == f"digits, train, image {index}"


def test_folds_and_seeds_have_one_image_size(tmp_path):
    for side in range(20, 44):
        write_images(tmp_path / ("a" if side % 2 else "b") / str(side), 2, size=(side, side))
    options = [{"folds": 4, "fold": fold} for fold in range(4)]
    options += [{option: 0.3, "seed": seed} for option in ("val_split", "holdout") for seed in range(3)]
    assert len({open_data(tmp_path, **each).image_size for each in options}) == 1
