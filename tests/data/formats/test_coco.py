"""COCO's layout: boxes, polygons, run lengths, crowds; and what is wrong, with its id."""

import copy
import json
import zipfile

import pytest
import torch
from PIL import Image

from recursivemix.data.annotated import AnnotationError
from recursivemix.data.formats.coco import annotation_dict, open_coco
from recursivemix.data.formats.coco_masks import as_run_lengths
from recursivemix.data.open_annotated import open_detection
from recursivemix.tasks.detection.metrics import coco_metrics

SIZE = (30, 40)  # H, W
GOOD = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 2, "file_name": "sub/b.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "c.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {
            "id": 1, "image_id": 5, "category_id": 8, "bbox": [2, 3, 10, 12], "area": 100.0, "iscrowd": 0,
            "segmentation": [[2, 3, 12, 3, 12, 15, 2, 15]],
        },
        {
            "id": 2, "image_id": 9, "category_id": 4, "bbox": [30, 20, 20, 20], "iscrowd": 0,
            "segmentation": [[30, 20, 50, 20, 50, 40], [30, 20, 34, 20, 34, 28, 30, 28]],
        },
        {
            "id": 4, "image_id": 5, "category_id": 4, "bbox": [0, 0, 5, 2], "area": 10, "iscrowd": 1,
            "segmentation": {"size": [30, 40], "counts": [0, 2, 28, 2, 28, 2, 28, 2, 28, 2, 1078]},
        },
        {
            "id": 7, "image_id": 5, "category_id": 4, "bbox": [50, 1, 5, 5], "area": 25, "iscrowd": 0,
            "segmentation": [[50, 1, 55, 1, 55, 6]],
        },
    ],
    "categories": [{"id": 8, "name": "dog"}, {"id": 4, "name": "cat"}],
}  # fmt: skip


def write(folder, train=GOOD, val=GOOD):
    for split, content in (("train", train), ("val", val)):
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
        for name in ("a.png", "sub/b.png", "c.png"):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE[::-1], (10, 20, 30)).save(path)
    return folder


def changed(path, value):
    """The good file with another value at a path of keys; ``...`` takes it away."""
    content = copy.deepcopy(GOOD)
    *way, last = path
    place = content
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


def test_boxes(tmp_path):
    data = open_coco(write(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.category_ids == (4, 8)
    assert (len(data.train), data.split, data.has_masks) == (3, "val", False)
    image, objects = data.train[0]
    assert image.shape == (3, *SIZE)
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert objects.boxes.tolist() == [[2, 3, 12, 15], [0, 0, 5, 2]]
    assert objects.labels.tolist() == [1, 0]
    assert objects.crowd.tolist() == [False, True]
    assert objects.area.tolist() == [100, 10]
    assert objects.masks is None
    assert data.train.objects(1).boxes.shape == (0, 4)  # an image without objects stays
    assert data.train.objects(2).boxes.tolist() == [[30, 20, 40, 30]]  # clipped
    assert data.train.objects(2).area.tolist() == [100]  # of the clipped box, where none is given
    assert [data.train.image_id(i) for i in range(3)] == [5, 2, 9]
    assert data.train.name(1).endswith("train/sub/b.png")
    assert open_detection(tmp_path).classes == data.classes


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' own
def test_masks_as_pycocotools_has_them(tmp_path):
    from pycocotools import mask as run_lengths

    data = open_coco(write(tmp_path), masks=True)
    assert data.has_masks
    objects = data.train.objects(0)
    assert objects.masks.dtype == torch.bool
    assert objects.masks.shape == (2, *SIZE)
    assert torch.equal(objects.masks[0].nonzero().amin(0), torch.tensor([3, 2]))
    assert objects.masks[0].sum() == 120
    crowd = torch.zeros(SIZE, dtype=torch.bool)
    crowd[:2, :5] = True
    assert torch.equal(objects.masks[1], crowd)
    polygons = GOOD["annotations"][1]["segmentation"]
    expected = run_lengths.decode(run_lengths.merge(run_lengths.frPyObjects(polygons, *SIZE)))
    assert torch.equal(data.train.objects(2).masks[0], torch.from_numpy(expected).bool())
    assert data.train.objects(1).masks.shape == (0, *SIZE)


def test_compressed_run_lengths(tmp_path):
    mask = torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < 0.4
    content = changed(("annotations", 0, "segmentation"), as_run_lengths(mask))
    data = open_coco(write(tmp_path, train=content), masks=True)
    assert torch.equal(data.train.objects(0).masks[0], mask)


def test_cocos_own_names(tmp_path):
    write(tmp_path)
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"{split}.json").rename(
            tmp_path / "annotations" / f"instances_{split}2017.json"
        )
        (tmp_path / split).rename(tmp_path / f"{split}2017")
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    data = open_coco(tmp_path)
    assert (len(data.train), data.split) == (3, "val")


def test_file_names_lead_through_links_and_can_begin_with_a_dot(tmp_path):
    write(tmp_path, changed(("images", 0, "file_name"), "./a.png"))
    (tmp_path / "train" / "sub").rename(tmp_path / "elsewhere")
    (tmp_path / "train" / "sub").symlink_to(tmp_path / "elsewhere")
    assert len(open_coco(tmp_path).train) == 3


def test_back_to_cocos_form(tmp_path):
    data = open_coco(write(tmp_path), masks=True)
    content = annotation_dict(data.train, data)
    assert [one["id"] for one in content["images"]] == [5, 2, 9]
    assert content["categories"] == [{"id": 4, "name": "cat"}, {"id": 8, "name": "dog"}]
    assert [one["bbox"] for one in content["annotations"]] == [
        [2, 3, 10, 12],
        [0, 0, 5, 2],
        [30, 20, 10, 10],
    ]
    assert [one["iscrowd"] for one in content["annotations"]] == [0, 1, 0]
    for one in content["images"]:
        one["file_name"] = one["file_name"].partition("train/")[2]
    again = open_coco(write(tmp_path / "again", train=content), masks=True)
    for i in range(3):
        for a, b in zip(again.train.objects(i), data.train.objects(i), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list of images"),
        (changed(("annotations",), ...), "has no list of annotations"),
        (changed(("images",), []), "has no images"),
        (changed(("annotations",), []), "has no object in its . images"),
        (changed(("categories",), []), "has no categories"),
        (changed(("images", 0, "id"), 2), "two images have the id 2"),
        (changed(("images", 0, "width"), ...), "image 5 must have a width"),
        (changed(("images", 1, "file_name"), ...), "image 2 has no file_name"),
        (changed(("images", 1, "file_name"), "z.png"), r"image 2: .*train has no file 'z.png'"),
        (changed(("annotations", 1, "id"), 1), "two annotations have the id 1"),
        (changed(("annotations", 1, "id"), ...), "an entry of annotation has no id"),
        (changed(("annotations", 1, "image_id"), 77), "annotation 2 has the image_id 77"),
        (changed(("annotations", 1, "category_id"), 1), "annotation 2 has the category_id 1"),
        (
            changed(("annotations", 0, "bbox"), [1, 2, 3]),
            "annotation 1 must have a bbox of four finite numbers",
        ),
        (changed(("annotations", 0, "bbox"), [1, 2, 3, "4"]), "annotation 1 must have a bbox"),
        (changed(("annotations", 0, "bbox"), [1, 2, 3, float("nan")]), "annotation 1 must have a bbox"),
        (changed(("annotations", 0, "bbox"), [1, 2, -3, 4]), "annotation 1 has a bbox of negative size"),
        (changed(("categories", 0, "id"), 4), "two categories have the id 4"),
        (changed(("categories", 0, "name"), {"en": "dog"}), "category 8 must have a name"),
        ("[" * 100_000, "is not JSON"),
        (changed(("images", 0, "height"), 10**9), "image 5 must have a height of 1 to"),
        (changed(("annotations", 1, "category_id"), [4]), r"annotation 2 has the category_id \[4\]"),
        (changed(("annotations", 1, "category_id"), {"id": 4}), "annotation 2 has the category_id"),
        (changed(("annotations", 1, "image_id"), [[9]]), "annotation 2 has the image_id"),
        (changed(("annotations", 0, "area"), {"value": 3}), "annotation 1 must have an area"),
        (changed(("annotations", 0, "area"), 1e300), r"annotation 1 must have an area .*, got 1e\+300"),
        (changed(("annotations", 0, "area"), 10**400), "annotation 1 must have an area"),
        (changed(("annotations", 0, "area"), -5), "annotation 1 must have an area of at least 0 pixels"),
        (changed(("annotations", 0, "bbox"), [1, 2, 3, 10**400]), "annotation 1 must have a bbox"),
        (changed(("annotations", 0, "iscrowd"), "0"), "annotation 1 must have an iscrowd of 0 or 1"),
        (
            changed(("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, "6"]]),
            "annotation 1 has .* numbers",
        ),
        (
            changed(("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, 1e999]]),
            "annotation 1 has .* numbers",
        ),
        (changed(("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, 1e9]]), "numbers near its image"),
        (changed(("annotations", 2, "segmentation", "counts"), [-1, 1201]), "annotation 4 has .* whole"),
        (changed(("annotations", 2, "segmentation", "counts"), ["1200"]), "annotation 4 has .* whole"),
        (changed(("annotations", 0, "segmentation"), ...), "annotation 1 has no segmentation"),
        (changed(("annotations", 0, "segmentation"), [[1, 2, 3, 4]]), "annotation 1 has a polygon that"),
        (changed(("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, 6, 7]]), "has a polygon that is not"),
        (changed(("annotations", 0, "segmentation"), "x"), "neither polygons nor run lengths"),
        (changed(("annotations", 2, "segmentation", "size"), [40, 30]), "annotation 4 has .* another size"),
        (changed(("annotations", 2, "segmentation", "counts"), [1, 2]), "annotation 4 has .* 3 pixels"),
        (changed(("annotations", 2, "segmentation", "counts"), ...), "annotation 4 has .* without counts"),
    ],
)
def test_what_is_wrong(content, words, tmp_path):
    with pytest.raises(AnnotationError, match=words) as error:
        open_coco(write(tmp_path, train=content), masks=True)
    assert "\n" not in str(error.value)
    assert "train" in str(error.value)


def test_an_image_of_another_size(tmp_path):
    data = open_coco(write(tmp_path, train=changed(("images", 0, "width"), 41)))
    with pytest.raises(AnnotationError, match=r"image 5 is annotated as 41x30, but .* is 40x30"):
        _ = data.train[0]


def test_broken_run_lengths_are_named_when_they_are_read(tmp_path):
    broken = changed(("annotations", 2, "segmentation"), {"size": list(SIZE), "counts": "oooo"})
    data = open_coco(write(tmp_path, train=broken), masks=True)
    with pytest.raises(AnnotationError, match=r"train.json: annotation 4 has broken run lengths"):
        data.train.objects(0)


def test_masks_of_a_wrong_size_are_not_decoded(tmp_path):
    content = changed(("images", 0, "width"), 10**6)
    content["images"][0]["height"] = 10**6
    content["annotations"] = content["annotations"][:1]  # its mask would take a terabyte
    data = open_coco(write(tmp_path, train=content), masks=True)
    with pytest.raises(AnnotationError, match="image 5 is annotated as 1000000x1000000"):
        data.train.objects(0)


def test_bad_images_are_left_out(tmp_path):
    content = copy.deepcopy(GOOD)
    content["annotations"][1]["bbox"] = "left"  # the only object of image 9
    content["annotations"].append({"id": 8, "image_id": 77})
    write(tmp_path, train=content)
    (tmp_path / "train" / "sub" / "b.png").write_bytes(b"no image")
    (tmp_path / "val" / "a.png").unlink()
    with pytest.raises(AnnotationError, match="annotation 2 must have a bbox"):
        open_detection(tmp_path)
    data = open_detection(tmp_path, skip_bad=True)
    assert [data.train.image_id(i) for i in range(len(data.train))] == [5]
    assert [data.evaluation.image_id(i) for i in range(len(data.evaluation))] == [2, 9]
    assert data.train.objects(0).labels.tolist() == [1, 0]
    assert len(data.skipped) == 4
    for words in ("annotation 2 ", "annotation 8 has the image_id 77", "b.png", "no file 'a.png'"):
        assert sum(words in reason for reason in data.skipped) == 1, words


def test_two_classes_of_one_name_stay_apart(tmp_path):
    same = changed(("categories",), [{"id": 8, "name": "cat"}, {"id": 4, "name": "cat"}])
    data = open_coco(write(tmp_path, same, same))
    assert (data.classes, data.category_ids) == (("cat", "cat (2)"), (4, 8))
    truth = annotation_dict(data.evaluation, data)
    keys = ("image_id", "category_id", "bbox")
    found = [{key: one[key] for key in keys} | {"score": 1.0} for one in truth["annotations"]]
    per_class = coco_metrics(truth, [one for one in found if one["category_id"] == 8])["per_class"]
    assert per_class == pytest.approx({"cat": 0, "cat (2)": 100})


def test_splits_of_other_categories(tmp_path):
    with pytest.raises(ValueError, match="different categories"):
        open_coco(write(tmp_path, val=changed(("categories", 0, "name"), "fox")))


def test_a_split_that_is_not_there(tmp_path):
    write(tmp_path)
    (tmp_path / "annotations" / "val.json").unlink()
    with pytest.raises(ValueError, match=r"has no val.json or test.json"):
        open_coco(tmp_path)
    with pytest.raises(ValueError, match="no boxes in a known layout"):
        open_detection(tmp_path / "train")


def test_real_cells(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "bccd-coco.zip") as archive:
        archive.extractall(tmp_path)
    data = open_coco(tmp_path / "bccd")
    assert (len(data.train), len(data.evaluation)) == (205, 87)
    assert data.classes == ("RBC", "WBC", "Platelets")
    objects = [split.objects(i) for split in (data.train, data.evaluation) for i in range(len(split))]
    assert sum(len(one.boxes) for one in objects) == 3941
    image, _ = data.evaluation[3]
    assert image.shape == (3, 480, 640)
