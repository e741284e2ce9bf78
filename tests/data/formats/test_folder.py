"""Folders of images: what is found, and what is refused with which words."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recursivemix.data.augment import (
    augmentation_of,
    colour_scale,
    normalise,
    training_crop,
    training_transform,
)
from recursivemix.data.crop import evaluation_crop, evaluation_image
from recursivemix.data.decode import Decoding, UnreadableImageError
from recursivemix.data.doctor import examine
from recursivemix.data.formats.digits import digits
from recursivemix.data.images import EncodedImages, ImageFiles, cropped, denormalise
from recursivemix.data.open import open_data
from samples import write_images


def image_folder(root, **options):
    return open_data(root, "folder", **options)


def paths_of(images):
    return [Path(images.name(index)) for index in range(len(images))]


def test_finds_splits_classes_and_size(image_root):
    data = image_folder(image_root)
    assert data.classes == ("blue", "green", "red")
    assert (len(data.train), len(data.evaluation), data.image_size, data.split) == (36, 15, 16, "val")
    assert (data.train[0].shape, data.train[0].dtype, data.train.size(0)) == (
        (3, 16, 16),
        torch.uint8,
        (16, 16),
    )
    assert data.train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_test_split_stands_in_for_val(image_root):
    (image_root / "val").rename(image_root / "test")
    assert image_folder(image_root).split == "test"


def test_one_folder_is_split_by_class_and_always_alike(image_root):
    flat = image_root / "train"
    data, again, other = (image_folder(flat, val_split=0.25, seed=s) for s in (1, 1, 2))
    assert (len(data.train), len(data.evaluation), data.split) == (27, 9, "held out")
    assert data.evaluation.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert paths_of(data.evaluation) == paths_of(again.evaluation)
    assert paths_of(data.evaluation) != paths_of(other.evaluation)
    assert not set(paths_of(data.train)) & set(paths_of(data.evaluation))


def test_large_images_get_224_pixels(image_root):
    write_images(image_root / "train" / "red", 4, size=(300, 200))
    assert image_folder(image_root).image_size == 224
    assert image_folder(image_root, image_size=48).image_size == 48


@pytest.mark.parametrize("size", [16, 100])
def test_transforms_give_the_size_for_any_image(image_root, size):
    write_images(image_root / "train" / "red", 3, size=(37, 21))
    Image.new("L", (9, 30)).save(image_root / "train" / "red" / "grey.png")
    Image.new("RGBA", (30, 9)).save(image_root / "train" / "red" / "alpha.png")
    data = image_folder(image_root, image_size=size)
    augmentation = augmentation_of(data)
    transform = training_transform(augmentation)
    for index in range(len(data.train)):
        for image in (
            transform(cropped(data.train, index, training_crop(augmentation))),
            cropped(data.train, index, evaluation_crop(size)),
            evaluation_image(data.train[index], size),
        ):
            assert (image.shape, image.dtype) == ((3, size, size), torch.uint8)


def test_denormalise_undoes_normalise(image_root):
    data = image_folder(image_root)
    raw = data.evaluation[0]
    image = normalise(raw[None], colour_scale(data.mean, data.std, torch.device("cpu")))
    torch.testing.assert_close(denormalise(image, data.mean, data.std)[0], raw / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root), "there is no folder"),
        (lambda root: shutil.rmtree(root / "val"), "no labelled val or test split.*--val-split"),
        (lambda root: [p.unlink() for p in (root / "train" / "red").iterdir()], "red holds no image"),
        (lambda root: shutil.rmtree(root / "val" / "red"), "only in train: red; only in val: none"),
        (lambda root: (root / "val" / "red").rename(root / "val" / "rot"), "only in val: rot"),
        (
            lambda root: [shutil.rmtree(root / "train" / name) for name in ("red", "green")],
            "at least two classes, got only 'blue'",
        ),
    ],
)
def test_an_unusable_folder_says_what_to_mend(image_root, spoil, message):
    spoil(image_root)
    with pytest.raises(ValueError, match=message):
        image_folder(image_root)


def test_wrong_shares_are_named(image_root):
    with pytest.raises(ValueError, match="has a val split, so --val-split"):
        image_folder(image_root, val_split=0.2)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\), got 1"):
        image_folder(image_root / "train", val_split=1)
    write_images(image_root / "train" / "single", 1)
    with pytest.raises(ValueError, match="'single' has one image"):
        image_folder(image_root / "train", val_split=0.5)


def test_an_unreadable_image_names_its_file(tmp_path):
    for name, content in {"text.png": b"no image", "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=name):
            EncodedImages(ImageFiles([tmp_path / name]), torch.zeros(1))[0]
    write_images(tmp_path, 1, size=(64, 64))
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "0.png").read_bytes()[:3000])
    with pytest.raises(UnreadableImageError, match=r"cut\.png"):
        EncodedImages(ImageFiles([cut]), torch.zeros(1))[0]


def test_an_unreadable_image_says_what_to_do(image_root):
    path = image_root / "train" / "red" / "0.png"
    path.write_bytes(b"no image")
    data = image_folder(image_root, image_size=16)
    bad = paths_of(data.train).index(path)
    with pytest.raises(UnreadableImageError, match=r"0\.png: unknown image format; fix .* --skip-bad"):
        data.train[bad]


def test_a_folder_that_is_called_like_an_image_is_none(image_root):
    (image_root / "train" / "red" / "more.png").mkdir()
    write_images(image_root / "train" / "red" / "more.png", 2)
    assert len(image_folder(image_root).train) == 38


# -- bad files left out -----------------------------------------------------------------------------


def spoil(*paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


def test_bad_files_are_left_out_of_both_splits(image_root):
    bad = [image_root / "train" / "blue" / "0.png", image_root / "val" / "red" / "4.png"]
    whole = image_folder(image_root)
    spoil(*bad)
    data = image_folder(image_root, skip_bad=True)
    assert (len(data.train), len(data.evaluation), data.image_size) == (35, 14, 16)
    for part, before, path in zip(
        (data.train, data.evaluation), (whole.train, whole.evaluation), bad, strict=True
    ):
        assert paths_of(part) == [file for file in paths_of(before) if file != path]
    assert [text.partition(": ")[0] for text in data.skipped] == [str(path) for path in bad]
    assert all(text.partition(": ")[2] for text in data.skipped)


def test_bad_files_are_left_out_before_a_share_is_held_out(image_root):
    flat = image_root / "train"
    spoil(flat / "green" / "3.png")
    data = image_folder(flat, val_split=0.25, skip_bad=True)
    assert (len(data.train), len(data.evaluation), len(data.skipped)) == (26, 9, 1)
    assert flat / "green" / "3.png" not in paths_of(data.train) + paths_of(data.evaluation)


def test_good_files_are_all_kept(image_root):
    data, plain = image_folder(image_root, skip_bad=True), image_folder(image_root)
    for part, expected in ((data.train, plain.train), (data.evaluation, plain.evaluation)):
        assert paths_of(part) == paths_of(expected)
    assert data.skipped == plain.skipped == ()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_of_bad_files_alone_is_refused(image_root, split):
    spoil(*(image_root / split / "green").iterdir())
    with pytest.raises(
        ValueError, match=rf"leaves no image of the class 'green'.*first is .*{split}/green/0\.png: "
    ):
        image_folder(image_root, skip_bad=True)


def test_hidden_files_and_folders_are_left_out(image_root):
    """Copies of Jupyter, and what macOS adds to archives."""
    copies = image_root / "train" / "red" / ".ipynb_checkpoints"
    copies.mkdir()
    shutil.copy(image_root / "train" / "red" / "0.png", copies / "0-checkpoint.png")
    (image_root / "train" / "red" / "._0.png").write_bytes(b"\0\5\26\7")
    assert len(image_folder(image_root).train) == 36


def test_links_to_folders_are_followed(image_root, tmp_path):
    write_images(tmp_path / "more" / "deep", 3, hue=2)
    red = image_root / "train" / "red"
    (red / "more").symlink_to(tmp_path / "more")
    (red / "above").symlink_to(image_root)  # would be read without end
    write_images(tmp_path / "others", 2, hue=1)
    (tmp_path / "more" / "again").symlink_to(tmp_path / "more")
    (tmp_path / "more" / "others").symlink_to(tmp_path / "others")
    (tmp_path / "others" / "more").symlink_to(tmp_path / "more")  # round and round
    paths = paths_of(image_folder(image_root).train)
    linked = [f"more/deep/{i}.png" for i in range(3)] + [f"more/others/{i}.png" for i in range(2)]
    assert [path for path in paths if "more" in path.parts] == [red / name for name in linked]
    assert len(paths) == 36 + 5


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "valid"), ("TRAIN", "Validation")])
def test_other_names_of_splits(image_root, names):
    expected = image_folder(image_root)
    for old, new in zip(("train", "val"), names, strict=True):
        (image_root / old).rename(image_root / new)
    write_images(image_root / "labels", 3)  # belongs to no split
    data = image_folder(image_root)
    assert data.classes == expected.classes
    assert (len(data.train), len(data.evaluation)) == (len(expected.train), len(expected.evaluation))
    assert data.split == ("test" if names[1] == "Testing" else "val")


def test_the_validation_images_are_evaluated_on_before_the_test_images(image_root):
    """Roboflow's layout has train, valid and test."""
    (image_root / "val").rename(image_root / "valid")
    shutil.copytree(image_root / "train", image_root / "test")
    data = image_folder(image_root)
    assert {path.parts[-3] for path in paths_of(data.evaluation)} == {"valid"}
    shutil.copytree(image_root / "train", image_root / "val")
    assert {path.parts[-3] for path in paths_of(image_folder(image_root).evaluation)} == {"val"}


def test_splits_without_training_images_are_no_classes(image_root):
    (image_root / "train").rename(image_root / "test")
    with pytest.raises(ValueError, match="holds test, val, but no folder train"):
        image_folder(image_root, val_split=0.2)


def test_a_class_can_be_called_train(image_root):
    """Beside other classes; splits and folders of something else are no classes."""
    flat = image_root / "train"
    for old, new in (("red", "test"), ("test", "train")):
        (flat / old).rename(flat / new)
        data = open_data(flat, val_split=0.25)
        assert (data.classes, len(data.train)) == (("blue", "green", new), 27)
        assert set(examine(flat, progress=False).counts["all"]) == {"blue", "green", new}
    (flat / "green").rename(image_root / "green")
    with pytest.raises(ValueError, match=r"train must hold .* got none; train is the name of a split"):
        open_data(flat, val_split=0.25)
    write_images(flat / "test", 3)
    with pytest.raises(ValueError, match="got none; train is the name of a split"):
        open_data(flat)
    (flat / "test").rename(flat / "edges")
    (flat / "labels").mkdir()
    with pytest.raises(ValueError, match="got none; train is the name of a split"):
        open_data(flat, val_split=0.25)


def test_a_test_folder_without_classes_is_not_needed(image_root):
    """The layout of competitions, whose test images have no labels."""
    shutil.rmtree(image_root / "val")
    write_images(image_root / "test", 3)
    with pytest.raises(ValueError, match=r"test must hold a folder .*, got none; .*add --holdout 0\.2"):
        image_folder(image_root)
    data = image_folder(image_root, holdout=0.25)
    assert (len(data.train), len(data.evaluation)) == (27, 9)


def test_digits_are_split_once_and_for_all():
    first, second = digits(), digits()
    assert (len(first.train), len(first.evaluation), len(first.classes)) == (1437, 360, 10)
    assert torch.equal(first.evaluation.images, second.evaluation.images)
    counts = torch.bincount(first.evaluation.labels)
    assert counts.min() >= 34
    assert counts.max() <= 38
    assert (first.train.images.shape, first.train.images.dtype) == ((1437, 3, 32, 32), torch.uint8)
    assert not first.flip


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    ramp = torch.arange(0, 65536, 64, dtype=torch.int32).view(32, 32)
    Image.fromarray(ramp.numpy().astype("uint16")).save(tmp_path / "ramp.png")
    image = EncodedImages(ImageFiles([tmp_path / "ramp.png"]), torch.zeros(1))[0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.uint8)
    torch.testing.assert_close(image[0].int(), ramp // 257)


def test_sixteen_bits_of_another_byte_order_are_read(tmp_path):
    ramp = torch.arange(0, 65536, 64, dtype=torch.int32).view(32, 32)
    Image.frombytes("I;16B", (32, 32), ramp.numpy().astype(">u2").tobytes()).save(tmp_path / "ramp.tif")
    image = EncodedImages(ImageFiles([tmp_path / "ramp.tif"]), torch.zeros(1))[0]
    torch.testing.assert_close(image[0].int(), ramp // 257)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.float32([0, 0.5, 1]), "floating-point numbers from 0 to 1, expected 0 to 255"),
        (np.float32([-1.5, 2]), "floating-point numbers from -1.5 to 2, expected"),
        (np.float32([0, 65535]), "floating-point numbers from 0 to 65535, expected"),
        (np.float32([np.nan, 3]), "floating-point numbers from nan to nan, expected"),
        (np.float32([3, np.inf]), "floating-point numbers from 3 to inf, expected"),
        (np.int32([0, 65536]), "integers from 0 to 65536, expected 0 to 65535"),
        (np.int32([-1, 5]), "integers from -1 to 5, expected 0 to 65535"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_32_bits_of_an_unknown_range_are_refused(tmp_path, values, words, exact):
    """They would be decoded to black or white."""
    Image.fromarray(np.resize(values, (40, 40))).save(tmp_path / "a.tif")
    images = EncodedImages(ImageFiles([tmp_path / "a.tif"]), torch.zeros(1)).decoded(Decoding(exact))
    for read in (lambda: images[0], lambda: images.crop(0, evaluation_crop(8))):
        with pytest.raises(UnreadableImageError, match=rf"a\.tif: its pixels are {words}.* --skip-bad"):
            read()


@pytest.mark.parametrize("values", [(0, 255), (-0.5, 255.7), (0, 0)])
def test_floating_pixels_of_8_bits_are_read(tmp_path, values):
    Image.fromarray(np.resize(np.float32(values), (4, 4))).save(tmp_path / "a.tif")
    image = EncodedImages(ImageFiles([tmp_path / "a.tif"]), torch.zeros(1))[0]
    assert image[:, 0, :2].tolist() == [[int(value) for value in values]] * 3


@pytest.mark.parametrize("size", [b"0 0", b"0 9", b"9" * 5000 + b" 9"])
def test_raw_pixels_of_no_size_are_named(tmp_path, size):
    (tmp_path / "a.ppm").write_bytes(b"P6\n" + size + b"\n255\n")
    images = EncodedImages(ImageFiles([tmp_path / "a.ppm"]), torch.zeros(1))
    with pytest.raises(UnreadableImageError, match=r"a\.ppm"):
        cropped(images, 0, evaluation_crop(16))
