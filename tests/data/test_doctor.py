"""Each thing that can be wrong with a folder is planted once in a clean one, and found alone."""

import json
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from recursivemix.data.decode import map_decoding
from recursivemix.data.diagnosis import IMBALANCE, Duplicate, print_diagnosis
from recursivemix.data.doctor import examine, image_properties
from recursivemix.data.open import open_data


def picture(seed, size=(40, 48), channels=3):
    """A smooth (width, height) picture, unlike that of any other seed."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randint(256, (1, channels, 4, 4), generator=generator).float()
    fine = torch.nn.functional.interpolate(rough, size=size[::-1], mode="bilinear")
    pixels = fine[0].round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


@pytest.fixture
def root(tmp_path):
    """Nothing is wrong with it: ``train`` and ``test`` of two classes, 6 and 3 images each."""
    seed = 0
    for split, count in {"train": 6, "test": 3}.items():
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                seed += 1
                picture(seed).save(folder / f"{i}.png")
    return tmp_path / "data"


def look_at(root):
    return examine(root, progress=False)


def only_problem(root, found=None):
    (problem,) = (found or look_at(root)).problems
    return problem


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train", "val", "annotations/x.json"], "boxes in the layout of COCO"),
        (["images/training", "annotations/training"], "recursivemix transfer segmentation"),
        (["ImageSets", "JPEGImages", "Annotations"], "the layout of Pascal VOC"),
    ],
)
def test_annotated_images_are_no_classes(folders, words, tmp_path):
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=words):
        examine(tmp_path)
    with pytest.raises(ValueError, match=words):
        open_data(tmp_path)
    for name in ("train/red", "train/blue"):  # beside folders of classes, such a folder is ignored
        (tmp_path / name).mkdir(parents=True)
    assert examine(tmp_path).counts["train"] == {"blue": 0, "red": 0}


def test_a_clean_set_has_no_problems(root):
    found = look_at(root)
    assert found.problems == found.duplicates == found.unreadable == found.stray_images == ()
    assert found.counts == {"train": {"cat": 6, "dog": 6}, "test": {"cat": 3, "dog": 3}}
    assert found.imbalance == {"train": 1, "test": 1}
    assert (found.images, found.modes, found.leaks) == (18, {"RGB": 18}, {})
    assert (found.width.min, found.width.median, found.width.max) == (40, 40, 40)
    assert (found.height.min, found.height.median, found.height.max) == (48, 48, 48)


def test_one_folder_of_classes_has_no_problems_either(root):
    found = look_at(root / "train")
    assert (found.counts, found.problems) == ({"all": {"cat": 6, "dog": 6}}, ())


def test_hidden_files_and_the_files_beside_classes_are_no_problem(root):
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "train" / ".cache").mkdir()
    (root / "LICENSE.txt").write_text("free")
    assert look_at(root).problems == ()


def test_splits_of_other_names_are_found(root):
    (root / "train").rename(root / "Training")
    (root / "test").rename(root / "Testing")
    diagnosis = look_at(root)
    assert diagnosis.problems == ()
    assert list(diagnosis.counts) == ["train", "test"]


def test_a_class_may_have_the_name_of_a_split(root):
    for folder in ("cat", "dog"):
        (root / "train" / folder).rename(root / folder)
    for folder in ("train", "test"):
        shutil.rmtree(root / folder)
    (root / "dog").rename(root / "test")
    assert look_at(root).problems == ()
    assert look_at(root).counts == {"all": {"cat": 6, "test": 6}}
    assert open_data(root, "folder", val_split=0.5).classes == ("cat", "test")


def test_copies_of_jupyter_are_no_images(root):
    shutil.copytree(root / "train" / "cat", root / "train" / "cat" / ".ipynb_checkpoints")
    assert look_at(root).problems == ()


# -- files that cannot be read ----------------------------------------------------------------------


def whole(kind, seed=99):
    """The bytes of a good file."""
    stream = BytesIO()
    picture(seed, (160, 120)).save(stream, kind)
    return stream.getvalue()


def floating():
    """A TIFF file of floating pixels in [0, 1]."""
    stream = BytesIO()
    Image.fromarray(np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40)).save(stream, "TIFF")
    return stream.getvalue()


BROKEN = {
    "empty.png": (b"", "empty file"),
    "text.jpg": (b"this is a text, whatever its name", "unknown image format"),
    "page.jpeg": (b"<html>404</html>", "unknown image format"),
    "cut.jpg": (whole("JPEG")[:-700], "truncated"),
    "floating.tif": (floating(), "floating-point numbers from 0 to 1, expected 0 to 255"),
    "cut.png": (whole("PNG")[:1500], "truncated"),
    "cut.webp": (whole("WEBP")[:-90], "decoder"),
    "spoilt.png": (whole("PNG")[:60] + b"\xff" * 60 + whole("PNG")[120:], "broken data stream"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_found_with_its_reason(root, name):
    content, why = BROKEN[name]
    (root / "train" / "dog" / name).write_bytes(content)
    found = look_at(root)
    ((path, reason),) = found.unreadable
    assert path == f"train/dog/{name}"
    assert why in reason
    assert str(root) not in reason
    assert only_problem(root, found).startswith("1 image cannot be read")
    assert f"--skip-bad; for example train/dog/{name} ({reason})" in only_problem(root, found)
    assert found.counts["train"]["dog"] == 7


def test_links_into_nowhere_and_odd_failures_do_not_stop_it(root, monkeypatch):
    (root / "train" / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    assert look_at(root).unreadable == (("train/cat/gone.png", "No such file or directory"),)

    def fail(path):
        raise KeyError

    monkeypatch.setattr("recursivemix.data.doctor.image_properties", fail)
    assert dict(look_at(root).unreadable)["test/dog/0.png"] == "KeyError"


def test_results_and_reasons_come_in_order(root):
    for name, (content, _) in BROKEN.items():
        (root / "train" / "dog" / name).write_bytes(content)
    files = sorted((root / "train" / "dog").iterdir()) * 20  # several blocks
    results = map_decoding(image_properties, files, workers=3, progress=False)
    assert [path.name for path, result in zip(files, results, strict=True) if isinstance(result, str)] == (
        sorted(BROKEN) * 20
    )
    reasons = {path.name: result for path, result in zip(files, results, strict=True)}
    assert reasons["empty.png"] == "empty file"
    assert reasons["0.png"].size == (40, 48)
    assert map_decoding(image_properties, [], workers=1, progress=False) == []


# -- images that come more than once ----------------------------------------------------------------


def test_an_image_of_train_in_test_is_a_leak(root):
    shutil.copy(root / "train" / "cat" / "2.png", root / "test" / "cat" / "copy.png")
    found = look_at(root)
    copies = Duplicate(("train/cat/2.png", "test/cat/copy.png"), ("train", "test"), ("cat", "cat"))
    assert found.duplicates == found.leaking == (copies,)
    assert (found.leaks, found.contradicting) == ({"test in train": 1}, ())
    assert only_problem(root, found).startswith("1 of 7 test images (14.29 %) also in train")


def test_leaks_between_all_splits_are_counted(root):
    shutil.copytree(root / "test", root / "val")
    shutil.copy(root / "train" / "dog" / "0.png", root / "test" / "dog" / "copy.png")
    assert look_at(root).leaks == {"test in train": 1, "test in val": 6}


def test_one_image_of_two_classes_is_a_contradiction(root):
    shutil.copy(root / "train" / "cat" / "2.png", root / "test" / "dog" / "copy.png")
    found = look_at(root)
    assert found.contradicting == found.leaking == found.duplicates
    assert found.duplicates[0].classes == ("cat", "dog")
    leak, contradiction = found.problems
    assert "also in train" in leak
    assert "train/cat/2.png, test/dog/copy.png" in contradiction


def test_copies_inside_a_split_are_counted(root):
    for name in ("a.png", "b.png"):
        shutil.copy(root / "train" / "cat" / "2.png", root / "train" / "cat" / name)
    found = look_at(root)
    assert (found.leaks, found.contradicting) == ({}, ())
    assert only_problem(root, found).startswith("2 images repeated within a split: keep one of each")


def test_pixels_decide_not_files(root):
    """The same pixels in another format are a copy; the same bytes of pixels in another shape are none."""
    source = root / "train" / "cat" / "2.png"
    with Image.open(source) as image:
        image.save(root / "train" / "cat" / "copy.bmp")
        image.transpose(Image.Transpose.ROTATE_180).save(root / "train" / "cat" / "turned.png")
    Image.new("RGB", (40, 60)).save(root / "train" / "cat" / "black.png")
    Image.new("RGB", (60, 40)).save(root / "train" / "cat" / "lying.png")
    assert [d.files for d in look_at(root).duplicates] == [("train/cat/2.png", "train/cat/copy.bmp")]


# -- classes and folders ----------------------------------------------------------------------------


def test_a_class_missing_in_a_split_is_found(root):
    (root / "test" / "dog").rename(root / "test" / "Dog")
    found = look_at(root)
    assert found.missing_classes == {"train": ("Dog",), "test": ("dog",)}
    first, second = found.problems
    assert first.startswith("no folder in train for Dog:")
    assert second.startswith("no folder in test for dog:")


def test_an_empty_class_folder_is_found(root):
    (root / "train" / "bird").mkdir()
    (root / "test" / "bird").mkdir()
    picture(77).save(root / "test" / "bird" / "0.png")
    found = look_at(root)
    assert found.empty_classes == ("train/bird",)
    assert only_problem(root, found).startswith("1 class folder without any image: train/bird")


def test_imbalance_is_found(root):
    for i in range(6 * IMBALANCE + 1 - 6):
        picture(1000 + i).save(root / "train" / "cat" / f"more{i}.png")
    found = look_at(root)
    assert found.imbalance == {"train": pytest.approx(61 / 6, abs=0.01), "test": 1}
    assert only_problem(root, found).startswith("train is imbalanced: its largest class has 10.2 times")


def test_files_that_are_not_read_are_found(root):
    (root / "train" / "cat" / "notes.txt").write_text("a note")
    (root / "train" / "cat" / "5.heic").write_bytes(b"x")
    found = look_at(root)
    assert found.not_images == ("train/cat/5.heic", "train/cat/notes.txt")
    assert "1 .heic, 1 .txt" in only_problem(root, found)


@pytest.mark.parametrize("place", ["stray.png", "train/stray.png"])
def test_images_outside_the_classes_are_found(root, place):
    picture(78).save(root / place)
    assert look_at(root).stray_images == (place,)
    assert only_problem(root) == f"1 image outside the class folders, ignored: {place}"


def test_a_folder_that_is_no_split_is_found(root):
    shutil.copytree(root / "test", root / "test2")
    assert look_at(root).unread_folders == ("test2",)
    assert only_problem(root) == "ignored: test2; splits are named train, val and test"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "train"), "no train folder beside test"),
        (
            lambda root: [shutil.rmtree(root / name / "dog") for name in ("train", "test")],
            "at least two class folders are needed, train has only cat",
        ),
        (
            lambda root: [shutil.rmtree(root / name) for name in ("train", "test")],
            "no image file in any class folder (that is .jpg",
        ),
    ],
)
def test_what_image_folder_refuses_is_the_first_problem(root, spoil, message):
    spoil(root)
    with pytest.raises(ValueError):
        open_data(root, "folder")
    assert look_at(root).problems[0].startswith(message)


def test_the_most_severe_comes_first(root):
    (root / "train" / "bird").mkdir()
    (root / "train" / "cat" / "notes.txt").write_text("a note")
    (root / "train" / "cat" / "empty.png").write_bytes(b"")
    shutil.copy(root / "train" / "cat" / "2.png", root / "test" / "dog" / "copy.png")
    begins = (
        "no folder in",
        "1 class folder",
        "1 image cannot",
        "1 of 7 test",
        "1 set of",
        "files in class folders that are not images",
    )
    problems = look_at(root).problems
    assert len(problems) == len(begins)
    assert all(problem.startswith(begin) for problem, begin in zip(problems, begins, strict=True))


# -- the images themselves --------------------------------------------------------------------------


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50).save(path.with_suffix(".jpg"), exif=exif)


def upright(path):
    exif = Image.Exif()
    exif[0x0112] = 1
    picture(50).save(path.with_suffix(".jpg"), exif=exif)


def two_frames(path):
    picture(50).save(path.with_suffix(".webp"), save_all=True, append_images=[picture(51)])


def see_through(path):
    image = picture(50, channels=4)
    image.putalpha(128)
    image.save(path)


def opaque(path):
    image = picture(50, channels=4)
    image.putalpha(255)
    image.save(path)


def palette_with_a_hole(path):
    picture(50).quantize(16).save(path, transparency=bytes([0] + [255] * 15))


def sixteen_bits(path):
    ramp = torch.arange(0, 40 * 48 * 30, 30, dtype=torch.int32).view(48, 40)
    Image.fromarray(ramp.numpy().astype("uint16")).save(path)


@pytest.mark.parametrize(
    ("plant", "mode", "problem"),
    [
        (turned, "RGB", "1 image with an EXIF rotation"),
        (upright, "RGB", None),
        (two_frames, "RGB", "1 image with several frames"),
        (see_through, "RGBA", "1 image with transparent pixels"),
        (opaque, "RGBA", None),
        (palette_with_a_hole, "P", "1 image with transparent pixels"),
        (lambda path: picture(50).quantize(16).save(path), "P", None),
        (lambda path: picture(50, channels=1).save(path), "L", None),
        (sixteen_bits, "I;16", None),
        (
            lambda path: picture(50).convert("CMYK").save(path.with_suffix(".jpg")),
            "CMYK",
            "1 image in CMYK",
        ),
        (lambda path: picture(50, (121, 40)).save(path), "RGB", "1 image with one side more than 3 times"),
        (lambda path: picture(50, (120, 40)).save(path), "RGB", None),
        (lambda path: picture(50, (40, 31)).save(path), "RGB", "1 image with a side below 32 pixels"),
        (lambda path: picture(50, (32, 32)).save(path), "RGB", None),
    ],
)
def test_odd_images_are_counted(root, plant, mode, problem):
    plant(root / "train" / "cat" / "odd.png")
    found = look_at(root)
    expected = {"RGB": 19} if mode == "RGB" else {"RGB": 18, mode: 1}
    assert (found.modes, found.unreadable) == (expected, ())
    if problem is None:
        assert found.problems == ()
    else:
        assert only_problem(root, found).startswith(problem)


# -- what comes out ---------------------------------------------------------------------------------


def test_json_holds_everything(root):
    (root / "train" / "cat" / "empty.png").write_bytes(b"")
    shutil.copy(root / "train" / "cat" / "2.png", root / "test" / "dog" / "copy.png")
    found = look_at(root)
    record = found.as_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["problems"] == list(found.problems)
    assert record["images"] == 20
    assert record["unreadable"] == [["train/cat/empty.png", "empty file"]]
    assert record["duplicates"][0]["classes"] == ["cat", "dog"]
    assert record["width"] == {"min": 40, "median": 40, "max": 40}


def test_the_printed_form_shows_files_and_problems(root, capsys):
    folder = root / "train" / "cat"
    shutil.copy(
        folder / "2.png", root / "test" / "dog" / "copy [bold] of a file with quite a long name.png"
    )
    for i in range(7):
        (folder / f"empty{i}.png").write_bytes(b"")
    print_diagnosis(look_at(root))
    shown = capsys.readouterr().out
    assert "Unreadable, 5 of 7:" in shown
    assert "  train/cat/empty4.png: empty file\n" in shown
    assert "empty5" not in shown
    assert "  train/cat/2.png = test/dog/copy [bold] of a file with quite a long name.png\n" in shown
    assert "Problems: 3, the most severe first" in shown
    assert "6 (dog)" in shown
    assert "13 (cat)" in shown


def test_a_clean_set_and_an_empty_one_print_too(root, tmp_path, capsys):
    print_diagnosis(look_at(root))
    assert "No problems." in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    print_diagnosis(look_at(tmp_path / "empty"))
    assert "no image file in any class folder" in " ".join(capsys.readouterr().out.split())


def test_progress_leaves_standard_output_alone(root, capsys):
    examine(root, workers=1)
    assert capsys.readouterr().out == ""


def test_wrong_arguments_are_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere to examine"):
        look_at(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        examine(root, workers=0, progress=False)


def test_planted_in_real_images(shared_data, tmp_path):
    """BCCD's photographs: nothing is wrong with them; a test image among the training images is found."""
    for split, count in (("train", 12), ("val", 6)):
        with zipfile.ZipFile(shared_data / "bccd-coco.zip") as archive:
            names = [n for n in archive.namelist() if n.startswith(f"bccd/{split}/") and n.endswith(".jpg")]
            for i, name in enumerate(sorted(names)[:count]):
                target = tmp_path / split / "ab"[i % 2] / f"{i}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    clean = look_at(tmp_path)
    assert (clean.problems, clean.width.max, clean.height.max) == ((), 640, 480)
    shutil.copy(tmp_path / "val" / "a" / "0.jpg", tmp_path / "train" / "a" / "copy.jpg")
    assert look_at(tmp_path).leaks == {"val in train": 1}
