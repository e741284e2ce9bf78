"""Pascal VOC's layout: boxes from XML, label maps from palettes; and what is wrong, with its file."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from recursivemix.data.annotated import IGNORE, AnnotationError
from recursivemix.data.formats.voc import open_voc_detection, open_voc_segmentation
from recursivemix.data.open_annotated import open_detection, open_segmentation

XML = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>{}</annotation>"""
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write(root, xml=None):
    """Two training images and one to measure on, in VOCdevkit/VOC2012."""
    own = root / "VOCdevkit" / "VOC2012"
    for folder in (
        "Annotations",
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (own / folder).mkdir(parents=True)
    objects = {
        "one": OBJECT.format("dog", 0, 1, 1, 40, 30) + OBJECT.format("cat", 1, 5, 6, 10, 12),
        "two": "",
        "three": OBJECT.format("cat", 0, 2, 3, 4, 5),
    }
    for i, (name, found) in enumerate(objects.items()):
        (own / "Annotations" / f"{name}.xml").write_text(
            xml if xml and name == "one" else XML.format(found)
        )
        Image.new("RGB", (40, 30), (i, 0, 0)).save(own / "JPEGImages" / f"{name}.jpg")
        label_map = Image.new("P", (40, 30), i)
        label_map.putpalette([v for v in range(256) for _ in range(3)])
        label_map.putpixel((3, 2), IGNORE)
        label_map.save(own / "SegmentationClass" / f"{name}.png")
    for kind in ("Main", "Segmentation"):
        (own / "ImageSets" / kind / "train.txt").write_text("one\ntwo\n")
        (own / "ImageSets" / kind / "val.txt").write_text("three\n")
    return own


def test_boxes(tmp_path):
    own = write(tmp_path)
    for folder in (own, tmp_path, tmp_path / "VOCdevkit"):
        data = open_voc_detection(folder)
        assert data.classes == ("cat", "dog")
        image, objects = data.train[0]
        assert image.shape == (3, 30, 40)
        # Counted from 1 with the last pixel; from 0 without it.
        assert objects.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 10, 12]]
        assert objects.labels.tolist() == [1, 0]
        assert objects.crowd.tolist() == [False, True]
        assert objects.area.tolist() == [1200, 42]
        assert data.train.objects(1).boxes.shape == (0, 4)
        assert (len(data.evaluation), data.split) == (1, "val")
    assert open_detection(tmp_path).classes == data.classes
    with pytest.raises(ValueError, match="which has no masks"):
        open_detection(tmp_path, masks=True)


def test_names_of_images_can_contain_spaces(tmp_path):
    own = write(tmp_path)
    for file in (own / "JPEGImages" / "two.jpg", own / "Annotations" / "two.xml"):
        file.rename(file.with_stem("two 2"))
    (own / "ImageSets" / "Main" / "train.txt").write_text("one  1\ntwo 2\n")
    names = [Path(open_voc_detection(own).train.name(i)).stem for i in range(2)]
    assert names == ["one", "two 2"]


def test_images_can_have_any_usual_suffix(tmp_path):
    own = write(tmp_path)
    folder = own / "JPEGImages"
    for name, suffix in (("one", "JPEG"), ("two", "png"), ("three", "JPG")):
        (folder / f"{name}.jpg").rename(folder / f"{name}.{suffix}")
    (folder / "notes.txt").write_text("no image")
    data = open_voc_detection(own)
    names = [Path(part.name(i)).name for part in (data.train, data.evaluation) for i in range(len(part))]
    assert names == ["one.JPEG", "two.png", "three.JPG"]
    assert data.train[1][0].shape == (3, 30, 40)
    assert Path(open_voc_segmentation(own).train.name(1)).name == "two.png"


def test_two_images_of_one_name_are_refused(tmp_path):
    own = write(tmp_path)
    shutil.copy(own / "JPEGImages" / "two.jpg", own / "JPEGImages" / "two.jpeg")
    shutil.copy(own / "JPEGImages" / "two.jpg", own / "JPEGImages" / "unlisted.jpg")
    shutil.copy(own / "JPEGImages" / "two.jpg", own / "JPEGImages" / "unlisted.png")
    for read in (open_voc_detection, open_voc_segmentation):
        with pytest.raises(AnnotationError, match=r"two\.jpeg and two\.jpg have the same name"):
            read(own)
    assert [len(open_voc_detection(own, skip_bad=True).train)] == [1]


def test_label_maps(tmp_path):
    own = write(tmp_path)
    data = open_voc_segmentation(own)
    assert data.classes == ("background", "1")
    _, label_map = data.train[1]
    assert label_map.dtype == torch.uint8
    assert label_map[2, 3] == IGNORE
    assert set(label_map.flatten().tolist()) == {1, IGNORE}
    with pytest.raises(AnnotationError, match=r"three.png has a pixel of class 2, but there are 2"):
        _ = data.evaluation[0]
    (own / "classes.txt").write_text("ground\ncat\ndog\n")
    data = open_segmentation(tmp_path)
    assert data.classes == ("ground", "cat", "dog")
    assert set(data.evaluation[0][1].flatten().tolist()) == {2, IGNORE}


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<annotation", "is not an annotation"),
        ("<annotation></annotation>", "has no size"),
        (XML.format("<object><name>dog</name></object>"), "object 1 has no bndbox"),
        (XML.format(OBJECT.format("", 0, 1, 1, 5, 5)), "object 1 has no name"),
        (XML.format(OBJECT.format("dog", 0, 9, 1, 5, 5)), "xmax < xmin or ymax < ymin"),
        (XML.format(OBJECT.format("dog", 0, 1, 1, "1e999", 5)), "object 1 has a box"),
        (XML.format("").replace("40", "9" * 5000), "has no size"),
        (XML.format("").replace("40", "0"), "has no size"),
        ('<?xml version="1.0" encoding="klingon"?>' + XML.format(""), "is not an annotation"),
        (
            f'<!DOCTYPE a [<!ENTITY e "dog">]>{XML.format(OBJECT.format("&e;", 0, 1, 1, 5, 5))}',
            "document type",
        ),
        (
            '<!DOCTYPE a [<!ENTITY e0 "dog">'
            + "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
            + f"]>{XML.format(OBJECT.format('&e12;', 0, 1, 1, 5, 5))}",
            "document type",
        ),
        (
            f'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>{XML.format("<object>&e;</object>")}',
            "document type",
        ),
    ],
)
def test_what_is_wrong(xml, words, tmp_path):
    with pytest.raises(AnnotationError, match=words) as error:
        open_voc_detection(write(tmp_path, xml))
    assert "one.xml" in str(error.value)


def test_an_image_that_is_not_there(tmp_path):
    root = write(tmp_path)
    (root / "JPEGImages" / "three.jpg").unlink()
    (root / "JPEGImages" / "three.png").symlink_to("nowhere.png")
    with pytest.raises(AnnotationError, match=r"JPEGImages/three is listed in .* no image has this name"):
        open_voc_detection(root)


def test_bad_images_are_left_out(tmp_path):
    root = write(tmp_path)
    for folder in ("Main", "Segmentation"):
        (root / "ImageSets" / folder / "train.txt").write_text("one\ntwo\nfour\nfive\n")
        (root / "ImageSets" / folder / "val.txt").write_text("three\nsix\n")
    (root / "Annotations" / "two.xml").write_text("<annotation")
    (root / "SegmentationClass" / "two.png").write_bytes(b"no image")
    with Image.open(root / "SegmentationClass" / "one.png") as source:
        label_map = source.copy()
    label_map.putpixel((0, 0), 1)
    label_map.save(root / "SegmentationClass" / "one.png")
    for name in ("five", "six"):
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            shutil.copy(root / folder / f"one.{suffix}", root / folder / f"{name}.{suffix}")
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(OBJECT.format(name, 0, 1, 1, 9, 9)))
    (root / "JPEGImages" / "five.jpg").write_bytes(b"no image")
    data = open_detection(tmp_path, "voc", skip_bad=True)
    assert data.classes == ("cat", "dog", "five")
    names = [[images.name(i) for i in range(len(images))] for images in (data.train, data.evaluation)]
    assert [[Path(name).stem for name in part] for part in names] == [["one"], ["three"]]
    for words in (
        "two.xml",
        "four.xml",
        "five.jpg",
        "six.jpg: object 1 of its annotation is of the class 'six'",
    ):
        assert sum(words in reason for reason in data.skipped) == 1, words
    maps = open_segmentation(tmp_path, "voc", skip_bad=True)
    assert [len(maps.train), len(maps.evaluation)] == [1, 1]  # the class of three.png is not in train
    for words in ("two.png", "JPEGImages/four is listed", "five.jpg", "three.png has a pixel of class 2"):
        assert sum(words in reason for reason in maps.skipped) == 1, words


def test_a_class_that_training_lacks(tmp_path):
    own = write(tmp_path)
    (own / "Annotations" / "three.xml").write_text(XML.format(OBJECT.format("owl", 0, 1, 1, 9, 9)))
    with pytest.raises(
        AnnotationError, match=r"three.jpg: object 1 of its annotation is of the class 'owl'"
    ):
        open_voc_detection(own)


def test_what_is_not_there(tmp_path):
    own = write(tmp_path)
    (own / "SegmentationClass" / "two.png").unlink()
    with pytest.raises(AnnotationError, match=r"two.png is listed in .*, but does not exist"):
        open_voc_segmentation(own)
    (own / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"has no val.txt or test.txt"):
        open_voc_detection(own)
    with pytest.raises(ValueError, match="got none"):
        open_voc_detection(own / "Annotations")
