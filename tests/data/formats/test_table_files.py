"""Tables of images, written by the test: columns, several labels, bad rows."""

import csv
import pickle

import pytest
import torch
from PIL import Image

from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.formats.table import ParquetCells, read_columns, usable_rows
from recursivemix.data.open import open_data
from recursivemix.data.rows import Row, sorted_labels

SIDE = 16
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture
def folder(tmp_path):
    """Nine PNG files whose colour is their label."""
    (tmp_path / "images").mkdir()
    for i in range(9):
        name = list(COLOURS)[i % 3]
        Image.new("RGB", (SIDE, SIDE), COLOURS[name]).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def rows_of(folder, **columns):
    """Nine rows; a column is a list of cells, or a function of the row's number."""
    standard = {"image": lambda i: f"images/{i}.png", "label": lambda i: list(COLOURS)[i % 3]}
    made = {
        name: [cells(i) for i in range(9)] if callable(cells) else cells
        for name, cells in (standard | columns).items()
        if cells is not None
    }
    return [dict(zip(made, cells, strict=True)) for cells in zip(*made.values(), strict=True)]


def write_csv(folder, rows, name="labels.csv"):
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def split(i):
    return "train" if i < 6 else "val"


def colours_of(images):
    """The name of the colour of every image, from its pixels."""
    names = {value: name for name, value in COLOURS.items()}
    return [names[tuple(images[i][:, 3, 3].tolist())] for i in range(len(images))]


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv"])
def test_rows_are_images_with_labels(folder, name):
    data = open_data(table=write_csv(folder, rows_of(folder, split=split), name))
    assert (data.classes, data.split, data.image_size) == (("blue", "green", "red"), "val", SIDE)
    assert (len(data.train), len(data.evaluation), data.multi_label) == (6, 3, False)
    for part in (data.train, data.evaluation):
        assert [data.classes[label] for label in part.labels] == colours_of(part)
    assert data.train.name(2) == f"{folder / name}, row 3 ({folder / 'images' / '2.png'})"


def test_columns_are_named(folder):
    rows = rows_of(
        folder, image=None, label=None, photo=lambda i: f"{i}.png", colour=lambda i: list(COLOURS)[i % 3],
        fold=lambda i: {"train": "Training", "val": "dev"}[split(i)],
    )  # fmt: skip
    table = write_csv(folder, rows)
    named = {"image_column": "photo", "label_column": ["colour"], "split_column": "fold"}
    data = open_data(folder / "images", table=table, **named)
    assert colours_of(data.train) == [data.classes[label] for label in data.train.labels]
    assert (len(data.train), data.split) == (6, "val")
    for name, flag in (("image_column", "--image-column"), ("label_column", "--label-column")):
        without = {key: value for key, value in named.items() if key != name}
        with pytest.raises(
            ValueError, match=rf"none of the columns .*; name one with {flag}: photo, colour"
        ):
            open_data(table=table, **without)
    with pytest.raises(ValueError, match="no column 'nothing'; name one with --split-column: photo"):
        open_data(folder / "images", table=table, **named | {"split_column": "nothing"})


def test_a_table_without_splits_is_split(folder):
    table = write_csv(folder, rows_of(folder))
    data = open_data(table=table, val_split=0.3, seed=1)
    assert (len(data.train), len(data.evaluation), data.split) == (6, 3, "held out")
    assert sorted(data.evaluation.labels.tolist()) == [0, 1, 2]
    folds = [open_data(table=table, folds=3, fold=fold, seed=1) for fold in range(3)]
    assert sorted(row for data in folds for row in data.evaluation.rows.tolist()) == list(range(9))
    with pytest.raises(ValueError, match=r"labels\.csv has no labelled val or test split"):
        open_data(table=table)
    with pytest.raises(ValueError, match="has a val split, so --folds"):
        open_data(table=write_csv(folder, rows_of(folder, split=split)), folds=3)


def test_val_goes_before_test(folder):
    rows = rows_of(folder, split=lambda i: ("train", "val", "test")[i // 3])
    data = open_data(table=write_csv(folder, rows))
    assert (data.split, data.evaluation.rows.tolist()) == ("val", [3, 4, 5])
    for row in rows[3:6]:
        row["split"] = "train"
    data = open_data(table=write_csv(folder, rows))
    assert (data.split, data.evaluation.rows.tolist()) == ("test", [6, 7, 8])


# -- several labels ---------------------------------------------------------------------------------

WORDS = ["red", "red;blue", "", " blue ; green", "green", "red;red", "red;green;blue", "", "blue"]
EXPECTED = [[word in words for word in ("blue", "green", "red")] for words in WORDS]


def test_labels_in_one_cell_become_multi_hot(folder):
    data = open_data(table=write_csv(folder, rows_of(folder, label=WORDS, split=split)))
    assert (data.classes, data.multi_label) == (("blue", "green", "red"), True)
    assert data.train.labels.tolist() == EXPECTED[:6]
    assert data.evaluation.labels.tolist() == EXPECTED[6:]


def test_columns_of_zero_and_one_become_multi_hot(folder):
    marks = {
        name: [str(int(row[k])) for row in EXPECTED] for k, name in enumerate(("blue", "green", "red"))
    }
    marks["red"] = [{"1": "True", "0": "false"}[mark] for mark in marks["red"]]
    table = write_csv(folder, rows_of(folder, label=None, split=split, **marks))
    data = open_data(table=table, label_column=["green", "blue", "red"])
    assert data.classes == ("green", "blue", "red")  # in the order that was asked for
    expected = torch.tensor(EXPECTED)[:, [1, 0, 2]]
    assert torch.equal(torch.cat([data.train.labels, data.evaluation.labels]).bool(), expected)
    marks["blue"][4] = "2"
    table = write_csv(folder, rows_of(folder, label=None, split=split, **marks))
    with pytest.raises(ValueError, match=r"row 5 .*: the label columns must hold 0 or 1"):
        open_data(table=table, label_column=["green", "blue", "red"])


def test_single_labels_can_be_multi_hot(folder):
    data = open_data(table=write_csv(folder, rows_of(folder, split=split)), multi_label=True)
    assert data.train.labels.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]] * 2


def test_images_of_several_labels_are_split_by_their_rarest(folder):
    """Three copies of the table's rows: a third of each stratum is evaluated, of every fold."""
    rows = [row for row in rows_of(folder, label=WORDS) for _ in range(3)]
    table = write_csv(folder, rows)
    folds = [open_data(table=table, folds=3, fold=fold, seed=7) for fold in range(3)]
    assert sorted(row for data in folds for row in data.evaluation.rows.tolist()) == list(range(27))
    for data in folds:
        assert data.evaluation.labels.sum(0).tolist() == pytest.approx([4, 3, 4], abs=1.1)


# -- Parquet ----------------------------------------------------------------------------------------


def write_parquet(folder, columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    return folder / "labels.parquet"


@pytest.mark.parametrize("kind", ["path", "bytes", "datasets"])
def test_parquet_holds_paths_or_bytes(folder, kind):
    paths = [folder / "images" / f"{i}.png" for i in range(9)]
    cells = {
        "path": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "datasets": [{"bytes": path.read_bytes(), "path": None} for path in paths],
    }[kind]
    labels = [list(COLOURS)[i % 3] for i in range(9)]
    table = write_parquet(folder, {"image": cells, "label": labels, "split": [split(i) for i in range(9)]})
    data = open_data(table=table)
    assert colours_of(data.train) == labels[:6] == [data.classes[label] for label in data.train.labels]
    copy = pickle.loads(pickle.dumps(data.train))  # for loader workers
    assert torch.equal(copy[4], data.train[4])
    assert data.train.name(4).startswith(f"{table}, row 5")


def test_lists_of_labels_are_multi_hot(folder):
    words = [[word.strip() for word in cell.split(";") if word.strip()] for cell in WORDS]
    images = [f"images/{i}.png" for i in range(9)]
    table = write_parquet(folder, {"image": images, "label": words, "split": [split(i) for i in range(9)]})
    assert open_data(table=table).train.labels.tolist() == EXPECTED[:6]


def test_missing_values_are_no_labels(folder):
    """NaN of libraries other than pandas, and None in a list."""
    images = [f"images/{i}.png" for i in range(8)]
    table = write_parquet(folder, {"image": images, "label": [0.0, 1.0, float("nan"), 1.0] * 2})
    with pytest.raises(ValueError, match=r"row 3 .*: it has no label \(2 such\)"):
        open_data(table=table, val_split=0.5)
    table = write_parquet(
        folder, {"image": images, "label": [["a", None], ["b ", ""], [None], ["a;c"]] * 2}
    )
    assert open_data(table=table, val_split=0.5, multi_label=True).classes == ("a", "a;c", "b")


def test_columns_that_are_not_used_stay_in_arrows_memory(folder):
    rows = rows_of(folder)
    embedding = [[float(i)] * 8 for i in range(9)]
    cells = {name: [row[name] for row in rows] for name in ("image", "label")}
    columns = read_columns(write_parquet(folder, {**cells, "embedding": embedding}))
    assert isinstance(columns["embedding"], ParquetCells)
    assert list(columns["embedding"]) == embedding == [columns["embedding"][i] for i in range(9)]


def test_labels_of_one_value_have_one_order():
    """Sets of text have another order in every process."""
    for pair in (("1", "01"), ("01", "1"), ("001", "1"), ("1", "001")):
        assert sorted_labels([Row(i, "train", (label,)) for i, label in enumerate(pair)]) == sorted(pair)


def test_rows_of_a_split_that_is_not_used_are_not_read(folder):
    """Their bytes would be copied out of a Parquet file for nothing."""
    columns = ["train", "val", "test", "test"]
    rows, bad = usable_rows({0: b"x", 1: b"y"}, columns, [("a",)] * 4, train_only=False)
    assert ([row.number for row in rows], bad) == ([0, 1], {})
    rows, bad = usable_rows({0: b"x"}, columns, [("a",)] * 4, train_only=True)
    assert ([row.number for row in rows], bad) == ([0], {})


def test_a_missing_library_is_named(folder, monkeypatch):
    table = write_parquet(folder, {"image": ["a"], "label": ["b"]})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match="Parquet needs pyarrow: pip install"):
        open_data(table=table)


# -- bad tables -------------------------------------------------------------------------------------

BAD_CELLS = [
    ("image", 4, "images/none.png", r"row 5 \(.*none\.png\): the file does not exist"),
    ("image", 4, "", "row 5: it has no image"),
    ("image", 4, "x" * 300, r"row 5 \(.*x\): the file does not exist"),
    ("image", 4, "a\0b", r"row 5 \(.*\): the file does not exist"),
    ("label", 4, "", r"row 5 \(.*\): it has no label"),
    ("split", 4, "tests", r"row 5 \(.*\): the split must be train, .*; got 'tests'"),
    ("label", 8, "white", r"row 9 \(.*\): the label 'white' is in the val split only"),
]


@pytest.mark.parametrize(("column", "number", "cell", "message"), BAD_CELLS)
def test_a_bad_row_is_named_or_left_out(folder, column, number, cell, message):
    rows = rows_of(folder, split=lambda i: "train" if i < 6 else "val")
    rows += [dict(rows[8])]  # so that every class stays in both splits
    rows[number][column] = cell
    table = write_csv(folder, rows)
    with pytest.raises(ValueError, match=f"{message}; fix the row, or leave out .* --skip-bad"):
        open_data(table=table)
    data = open_data(table=table, skip_bad=True)
    assert number not in data.train.rows.tolist() + data.evaluation.rows.tolist()
    assert len(data.train) + len(data.evaluation) == 9
    (skipped,) = data.skipped
    assert skipped.startswith(f"{table}, row {number + 1}")


def test_labels_of_one_split_are_left_out_together(folder):
    rows = rows_of(folder, split=split)
    rows[0]["label"] = rows[1]["label"] = "white"
    table = write_csv(folder, rows)
    with pytest.raises(ValueError, match=r"row 1 .*'white' is in the train split only \(2 such\)"):
        open_data(table=table)
    data = open_data(table=table, skip_bad=True)
    assert data.classes == ("blue", "green", "red")
    assert data.train.rows.tolist() == [2, 3, 4, 5]
    assert len(data.skipped) == 2


def test_a_label_of_several_may_be_missing_from_the_evaluation(folder):
    words = ["red;blue", "white", "green", "red", "blue", "green", "red", "blue", "green"]
    data = open_data(table=write_csv(folder, rows_of(folder, label=words, split=split)))
    assert data.classes == ("blue", "green", "red", "white")
    assert data.evaluation.labels.sum(0).tolist() == [1, 1, 1, 0]


def test_an_image_that_cannot_be_decoded_is_named_or_left_out(folder):
    (folder / "images" / "4.png").write_bytes(b"no image")
    table = write_csv(folder, rows_of(folder, split=split))
    data = open_data(table=table, image_size=SIDE)
    with pytest.raises(
        UnreadableImageError, match=r"labels\.csv, row 5 \(.*4\.png\): unknown image .*--skip-bad"
    ):
        data.train[4]
    data = open_data(table=table, skip_bad=True)
    assert data.train.rows.tolist() == [0, 1, 2, 3, 5]
    (skipped,) = data.skipped
    assert skipped.endswith("4.png): unknown image format")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels.xlsx",
            b"",
            r"labels\.xlsx cannot be read: its name must end in \.csv, \.tsv or \.parquet",
        ),
        ("labels.csv", b"image,label\n", "has no rows below its header"),
        ("labels.csv", b"", "has no rows below its header"),
        (
            "labels.csv",
            b"image,label\na.png,b,c\n",
            r"labels\.csv, row 1 has 3 cells, but the header has 2",
        ),
        ("labels.csv", b"image,label,label\na.png,b,c\n", "has several columns 'label': rename"),
        ("labels.csv", b"image,label\n\xff\xfe,b\n", "labels.csv cannot be read: .*utf-8"),
        ("labels.parquet", b"image,label\n", "labels.parquet cannot be read: "),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_data(table=tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_too_few_classes_are_named(folder):
    with pytest.raises(ValueError, match=r"--table: there is no file .*nowhere\.csv"):
        open_data(table=folder / "nowhere.csv")
    with pytest.raises(ValueError, match="at least two classes, got red"):
        open_data(table=write_csv(folder, rows_of(folder, label=["red"] * 9)))
    with pytest.raises(ValueError, match="has no image of the train split"):
        open_data(table=write_csv(folder, rows_of(folder, split=["val"] * 9)))
    with pytest.raises(ValueError, match="--table does not apply to --dataset folder"):
        open_data(folder, "folder", table=folder / "labels.csv")
