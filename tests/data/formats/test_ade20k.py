"""ADE20K's layout: 0 is ignored, classes count from 1; and what is wrong, with its file."""

import zipfile

import pytest
import torch
from PIL import Image

from recursivemix.data.annotated import IGNORE, AnnotationError
from recursivemix.data.formats.ade20k import open_ade20k
from recursivemix.data.open_annotated import open_segmentation


def write(folder, classes="sky\nroad\n"):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 6), (9, 9, 9)).save(folder / "images" / split / f"{i}.jpg")
            label_map = Image.new("L", (8, 6), i + 1)
            label_map.putpixel((7, 5), 0)
            label_map.save(folder / "annotations" / split / f"{i}.png")
    if classes:
        (folder / "classes.txt").write_text(classes)
    return folder


def test_label_maps(tmp_path):
    data = open_ade20k(write(tmp_path))
    assert data.classes == ("sky", "road")
    assert data.split == "validation"
    image, label_map = data.train[1]
    assert image.shape == (3, 6, 8)
    assert label_map.dtype == torch.uint8
    assert label_map[5, 7] == IGNORE
    assert (label_map.flatten()[:-1] == 1).all()
    assert open_segmentation(tmp_path).classes == data.classes


def test_hidden_files_are_left_out(tmp_path):
    """Those that macOS adds to archives."""
    write(tmp_path)
    for name in ("images/training/._0.png", "annotations/validation/._0.png"):
        (tmp_path / name).write_bytes(b"x")
    assert len(open_ade20k(tmp_path).train) == 2


def test_names_of_classes(tmp_path):
    assert open_ade20k(write(tmp_path / "a", classes=None)).classes == ("1", "2")
    folder = write(tmp_path / "b", classes=None)
    (folder / "objectInfo150.txt").write_text("Idx\tRatio\tName\n1\t0.2\twall\n2\t0.1\tbuilding, edifice\n")
    assert open_ade20k(folder).classes == ("wall", "building, edifice")
    assert open_ade20k(write(tmp_path / "c", classes="sky\nsky\n")).classes == ("sky", "sky (2)")


def test_what_is_wrong(tmp_path):
    folder = write(tmp_path / "a", classes="sky\n")
    with pytest.raises(AnnotationError, match=r"must have 2 to 254 classes, has 1; the background is one"):
        open_ade20k(folder)
    (folder / "classes.txt").write_text("sky\nroad\n")
    Image.new("L", (8, 6), 3).save(folder / "annotations" / "training" / "1.png")
    with pytest.raises(AnnotationError, match=r"1.png has a pixel of class 3, but there are 2 classes"):
        _ = open_ade20k(folder).train[1]
    folder = write(tmp_path / "b")
    Image.new("RGB", (8, 6)).save(folder / "annotations" / "training" / "0.png")
    with pytest.raises(AnnotationError, match="colour mode RGB"):
        _ = open_ade20k(folder).train[0]
    folder = write(tmp_path / "c")
    Image.new("L", (8, 7)).save(folder / "annotations" / "training" / "0.png")
    with pytest.raises(AnnotationError, match="is 8x7, but its image is 8x6"):
        _ = open_ade20k(folder).train[0]
    folder = write(tmp_path / "d")
    (folder / "annotations" / "validation" / "1.png").unlink()
    with pytest.raises(AnnotationError, match=r"1 images have no label map in .*, validation: 1"):
        open_ade20k(folder)
    (folder / "images" / "validation" / "1.jpg").unlink()
    (folder / "images" / "training" / "0.jpg").unlink()
    with pytest.raises(AnnotationError, match="1 label maps have no image"):
        open_ade20k(folder)
    with pytest.raises(ValueError, match="there is no folder"):
        open_ade20k(tmp_path)
    with pytest.raises(ValueError, match="no label maps in a known layout"):
        open_segmentation(tmp_path)


def test_bad_images_are_left_out(tmp_path):
    folder = write(tmp_path)
    (folder / "annotations" / "training" / "0.png").write_bytes(b"no image")
    (folder / "images" / "validation" / "1.jpg").unlink()
    data = open_segmentation(tmp_path, skip_bad=True)
    assert data.train.name(0).endswith("training/1.jpg")
    assert data.evaluation.name(0).endswith("validation/0.jpg")
    assert [len(data.train), len(data.evaluation), len(data.skipped)] == [1, 1, 2]
    assert sum("1.png has no image" in reason for reason in data.skipped) == 1
    (folder / "annotations" / "training" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="--skip-bad leaves no image"):
        open_segmentation(tmp_path, skip_bad=True)


@pytest.mark.parametrize(("kind", "suffix"), [("images", "png"), ("annotations", "PNG")])
def test_two_files_of_one_name_are_refused(tmp_path, kind, suffix):
    folder = write(tmp_path)
    first = next((folder / kind / "training").glob("0.*"))
    first.with_suffix(f".{suffix}").write_bytes(first.read_bytes())
    with pytest.raises(AnnotationError, match=rf"{kind}/training/0\..* and 0\..* have the same name"):
        open_ade20k(folder)


def test_broken_lists_of_classes(tmp_path):
    folder = write(tmp_path)
    (folder / "classes.txt").write_bytes(b"sky\n\xff\xfe")
    with pytest.raises(AnnotationError, match=r"classes.txt is not a text file in UTF-8"):
        open_ade20k(folder)


def test_large_numbers_in_label_maps(tmp_path):
    folder = write(tmp_path)
    Image.new("I;16", (8, 6), 300).save(folder / "annotations" / "training" / "0.png")
    with pytest.raises(AnnotationError, match=r"0.png has a pixel of class 300, but there are 2 classes"):
        _ = open_ade20k(folder).train[0]
    (folder / "classes.txt").unlink()
    with pytest.raises(AnnotationError, match="must have 2 to 254 classes, has 300"):
        open_ade20k(folder)


def test_real_streets(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "camvid-ade.zip") as archive:
        archive.extractall(tmp_path)
    data = open_ade20k(tmp_path / "camvid")
    assert (len(data.train), len(data.evaluation), len(data.classes)) == (367, 101, 11)
    assert data.classes[0] == "sky"
    image, label_map = data.evaluation[0]
    assert image.shape[1:] == label_map.shape == (360, 480)
    assert set(torch.unique(label_map).tolist()) <= {*range(11), IGNORE}
