"""``recursivemix predict`` on files: tables in three formats, label maps, pictures, and what it refuses."""

import csv
import io
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from recursivemix.cli import main
from recursivemix.models.trained import load
from recursivemix.report.predict import predict_files
from recursivemix.report.prediction_files import find_images, output_names
from recursivemix.report.safe_cell import safe_cell
from samples import write_images


@pytest.fixture
def photos(tmp_path):
    """A folder with a subfolder, a hidden trap in a file name, and a file that is no image."""
    for hue, name in enumerate(("a", "=b")):
        write_images(tmp_path / "photos" / name, 2, hue=hue, size=(30, 20))
    (tmp_path / "photos" / "a" / "noise.jpg").write_bytes(b"noise")
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


NAMES = ["=b/0.png", "=b/1.png", "a/0.png", "a/1.png"]


def test_a_table_of_classes(save_trained, photos, tmp_path, capsys):
    checkpoint, out = save_trained(), tmp_path / "out.csv"
    words = ["predict", "--checkpoint", str(checkpoint), "--images", str(photos), "--top-k", "2"]
    assert main([*words, "--out", str(out), "--batch-size", "3", "--device", "cpu"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "4 images" in told.err
    assert "cannot read a/noise.jpg: " in told.err
    assert told.err.strip().endswith("failed: 1 of 5 images have no prediction")
    rows = read_rows(out)
    assert list(rows[0]) == ["image", "label_1", "probability_1", "label_2", "probability_2"]
    expected = load(checkpoint).predict([photos / name for name in NAMES], top_k=2)
    assert [row["image"] for row in rows] == [f"'{name}" if name[0] == "=" else name for name in NAMES]
    for row, one in zip(rows, expected, strict=True):
        labels = tuple(row[f"label_{k}"].removeprefix("'") for k in (1, 2))
        assert labels == one.labels
        assert [float(row[f"probability_{k}"]) for k in (1, 2)] == pytest.approx(
            one.probabilities, abs=1e-6
        )
    assert main([*words, "--out", str(out)]) == 2  # not over what is there
    assert "already exists" in capsys.readouterr().err


def test_no_cell_starts_a_formula(save_trained, photos, tmp_path):
    """Names of files, and of classes ("=SUM(A1)" is one of them)."""
    predict_files([save_trained()], [str(photos)], out=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=SUM(A1)" in cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_gets_an_apostrophe(text):
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(f"a{text}") == f"a{text}"
    assert safe_cell(-1.5) == -1.5  # a number is no formula


def test_the_formats_say_the_same(save_trained, photos, tmp_path):
    checkpoint, paths = (
        save_trained(),
        {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "parquet")},
    )
    for path in paths.values():
        result = predict_files([checkpoint], [str(photos)], top_k=3, out=path, features=True, batch_size=2)
        assert (result.images, [one.name for one in result.unreadable]) == (4, ["a/noise.jpg"])
    expected = load(checkpoint).predict([photos / name for name in NAMES], top_k=3, features=True)
    stored = json.loads(paths["json"].read_text())
    assert stored["task"] == "classification"
    assert stored["checkpoints"] == [str(checkpoint)]
    assert stored["classes"] == ["cat", "dog", "=SUM(A1)"]
    assert [one["image"] for one in stored["unreadable"]] == ["a/noise.jpg"]
    table = pyarrow.parquet.read_table(paths["parquet"]).to_pylist()
    rows = read_rows(paths["csv"])
    for one, item, line, row in zip(expected, stored["predictions"], table, rows, strict=True):
        assert item["image"] == line["image"] == row["image"].removeprefix("'")
        assert tuple(item["labels"]) == one.labels == tuple(line[f"label_{k}"] for k in (1, 2, 3))
        values = [[item["probabilities"][k - 1], line[f"probability_{k}"]] for k in (1, 2, 3)]
        values = [[*pair, float(row[f"probability_{k}"])] for k, pair in enumerate(values, start=1)]
        assert pytest.approx(np.tile(one.probabilities, (3, 1))) == np.array(values).T
        features = one.features.tolist()
        assert item["features"] == pytest.approx(features, abs=1e-5)
        assert line["features"] == pytest.approx(features, abs=1e-5)
        assert [float(row[f"feature_{i}"]) for i in range(64)] == pytest.approx(features, abs=1e-5)


def test_standard_input_and_output(save_trained, photos, tmp_path, capsys, monkeypatch):
    missing = photos / "missing.png"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'a' / '0.png'}\n\n{missing}\n"))
    words = [
        "predict",
        "--checkpoint",
        str(save_trained()),
        "--images",
        "-",
        "--top-k",
        "1",
        "--device",
        "cpu",
    ]
    assert main(words) == 1
    told = capsys.readouterr()
    header, row = told.out.splitlines()
    assert header == "image,label_1,probability_1"
    assert row.startswith(f"{photos / 'a' / '0.png'},")
    assert f"cannot read {missing}: No such file" in told.err


def test_several_files_and_checkpoints(save_trained, photos, capsys):
    checkpoints = [save_trained("a.ckpt"), save_trained("b.ckpt", seed=1)]
    files = [str(photos / name) for name in NAMES[1:3]]
    words = ["predict", "--checkpoint", str(checkpoints[0]), "--checkpoint", str(checkpoints[1])]
    assert main([*words, "--images", *files, "--format", "json", "--tta", "flip", "--device", "cpu"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert stored["checkpoints"] == [str(path) for path in checkpoints]
    assert [one["image"] for one in stored["predictions"]] == files


def test_detections_in_cocos_layout(save_trained, photos, tmp_path):
    checkpoint = save_trained(task="detection")
    (photos / "a" / "noise.jpg").unlink()
    predict_files(
        [checkpoint], [str(photos)], out=tmp_path / "out.json", features=True, pictures=tmp_path / "p"
    )
    predict_files([checkpoint], [str(photos)], out=tmp_path / "out.csv")
    stored = json.loads((tmp_path / "out.json").read_text())
    assert [(one["id"], one["file_name"]) for one in stored["images"]] == list(enumerate(NAMES, start=1))
    assert {(one["width"], one["height"]) for one in stored["images"]} == {(30, 20)}
    assert len(stored["images"][0]["features"]) == 512
    assert stored["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "=dog"}]
    expected = load(checkpoint).predict([photos / name for name in NAMES], batch_size=1)
    places = {7: "cat", 9: "=dog"}
    rows = read_rows(tmp_path / "out.csv")
    count = 0
    for number, one in enumerate(expected, start=1):
        found = [item for item in stored["annotations"] if item["image_id"] == number]
        assert tuple(places[item["category_id"]] for item in found) == one.labels
        assert [item["score"] for item in found] == pytest.approx(one.scores, abs=1e-5)
        for item, box in zip(found, one.boxes.tolist(), strict=True):
            x, y, width, height = item["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(box, abs=1e-3)
            assert item["area"] == pytest.approx(width * height)
            row = rows[count]
            assert [float(row[side]) for side in ("x1", "y1", "x2", "y2")] == pytest.approx(box, abs=1e-3)
            assert row["label"].removeprefix("'") == places[item["category_id"]]
            count += 1
    assert count == len(rows) == len(stored["annotations"]) > 0
    assert [item["id"] for item in stored["annotations"]] == list(range(1, count + 1))
    drawn = sorted(str(path.relative_to(tmp_path / "p")) for path in (tmp_path / "p").rglob("*.png"))
    assert drawn == ["=b/0.png", "=b/1.png", "a/0.png", "a/1.png"]


def test_label_maps(save_trained, photos, tmp_path):
    checkpoint = save_trained(task="segmentation")
    (photos / "a" / "0.jpg").write_bytes((photos / "a" / "1.png").read_bytes())  # the stem of another file
    out, maps = tmp_path / "out.parquet", tmp_path / "maps"
    result = predict_files([checkpoint], [str(photos)], out=out, maps=maps)
    assert (result.images, len(result.unreadable)) == (5, 1)
    assert (maps / "classes.txt").read_text().splitlines() == ["cat", "=dog"]
    files = {
        "=b/0": "=b/0.png",
        "=b/1": "=b/1.png",
        "a/0": "a/0.jpg",
        "a/0.png": "a/0.png",
        "a/1": "a/1.png",
    }
    assert sorted(str(p.relative_to(maps))[:-4] for p in maps.rglob("*.png")) == sorted(files)
    table = pyarrow.parquet.read_table(out).to_pylist()
    for name, file in files.items():
        (expected,) = load(checkpoint).predict(photos / file)
        with Image.open(maps / f"{name}.png") as stored:
            assert torch.equal(torch.from_numpy(np.array(stored)).long(), expected.label_map + 1)
        shares = {row["label"]: row["share"] for row in table if row["image"] == file}
        assert shares == pytest.approx(expected.shares)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with NumPy 2
@pytest.mark.slow
def test_masks_in_cocos_layout(save_trained, photos, tmp_path):
    from pycocotools import mask as coco_masks

    checkpoint, file = save_trained(task="instance"), photos / "a" / "0.png"
    predict_files([checkpoint], [str(file)], out=tmp_path / "out.json")
    (expected,) = load(checkpoint).predict(file)
    found = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert len(found) == len(expected.boxes) > 0
    for item, mask in zip(found, expected.masks, strict=True):
        assert np.array_equal(coco_masks.decode(item["segmentation"]), mask.numpy())


def test_names_of_outputs(tmp_path):
    root = tmp_path
    files = [root / "a" / "x.png", root / "a" / "x.jpg", root / "b" / "x.png"]
    assert output_names(files, root) == ["a/x", "a/x.jpg", "b/x"]
    assert output_names(files, None) == ["x", "x.jpg", "x.png"]
    assert output_names([root / "x.png"] * 3, None) == ["x", "x.png", "x.png-3"]


def test_a_table_without_rows_has_its_header(save_trained, photos, tmp_path):
    bad = [str(photos / "a" / "noise.jpg")]
    for kind in ("csv", "json", "parquet"):
        out = tmp_path / f"out.{kind}"
        assert predict_files([save_trained()], bad, out=out).images == 0
    assert (tmp_path / "out.csv").read_text().startswith("image,label_1")
    assert json.loads((tmp_path / "out.json").read_text())["predictions"] == []
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").column_names[:2] == ["image", "label_1"]


def test_the_old_words(save_trained, photos, tmp_path, capsys):
    (photos / "a" / "noise.jpg").unlink()
    for task, written in (
        ("segmentation", ["maps", "pictures", "shares.csv"]),
        ("detection", ["detections.json", "pictures"]),
    ):
        out = tmp_path / task
        words = ["--checkpoint", str(save_trained(task=task)), "--images", str(photos), "--out", str(out)]
        assert main(["transfer", "predict", *words, "--device", "cpu"]) == 0
        notice, counted = capsys.readouterr().err.splitlines()
        assert notice == "recursivemix transfer predict is now a part of recursivemix predict"
        assert counted == f"4 images: {out}"
        assert sorted(path.name for path in out.iterdir()) == written


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("classification", ["--format", "xml"], "--format"),
        ("classification", ["--format", "parquet"], "--format parquet needs a file"),
        (
            "classification",
            ["--out", "out.txt"],
            "--format, or the ending of --out, must be csv, json or parquet",
        ),
        ("classification", ["--top-k", "0"], "--top-k must be at least 1, got 0"),
        ("classification", ["--workers", "-1"], "--workers must be at least 0"),
        ("classification", ["--maps", "m"], "--maps is for segmentation"),
        ("segmentation", ["--top-k", "3"], "--top-k is for classification"),
        ("classification", ["--pictures", "p"], "--pictures is for detection and segmentation"),
        ("detection", ["--features"], "--features of detection needs --format json"),
        ("detection", ["--pictures", "photos"], "photos is not an empty folder"),
        ("classification", ["--images", "nowhere"], "there is no file or folder nowhere"),
        ("classification", ["--images", "empty"], "empty holds no images"),
        ("classification", ["--checkpoint", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    ],
)
def test_what_is_refused(task, words, message, save_trained, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    checkpoint = [] if "--checkpoint" in words else ["--checkpoint", str(save_trained(task=task))]
    images = [] if "--images" in words else ["--images", str(photos)]
    before = sorted(tmp_path.rglob("*"))
    assert _exit_code(["predict", *checkpoint, *images, *words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def _exit_code(words):
    try:
        return main(words)
    except SystemExit as stop:  # of the parser
        return stop.code


def test_a_failure_leaves_no_file(save_trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("recursivemix.report.prediction_table.rows", lambda prediction: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict_files([save_trained()], [str(photos)], out=tmp_path / "new" / "out.csv")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_place_that_cannot_be_written(save_trained, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write the predictions"):
        predict_files([save_trained()], [str(photos)], out=tmp_path / "file" / "out.csv")


def test_standard_input_without_names(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(ValueError, match="name files, a folder, or -"):
        find_images(["-"])
