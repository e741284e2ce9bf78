"""Sets of the datasets library, made on the spot; no test may reach for the network."""

import pickle
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")

from recursivemix.data.decode import UnreadableImageError  # noqa: E402
from recursivemix.data.open import open_data  # noqa: E402

CLASSES = ["blue", "green", "red"]


def hugging_face(name, **options):
    return open_data(Path(name), "hf", **options)


def image_folder(root):
    return open_data(root, "folder")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No network, and a cache of its own."""

    connect = socket.socket.connect

    def refuse(*args, **options):
        raise AssertionError("a test reached for the network")

    def connect_here(self, address):  # loader workers do
        return connect(self, address) if self.family == socket.AF_UNIX else refuse()

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(folder, classes=CLASSES):
    """A split with the images of a folder of class folders, in an order of its own."""
    paths = sorted(folder.rglob("*.png"))[::-1]
    names = [path.parent.name for path in paths]
    columns = {
        "image": [{"path": None, "bytes": path.read_bytes()} for path in paths],
        "label": [classes.index(name) for name in names],
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def splits(image_root):
    return datasets.DatasetDict(
        {"train": table(image_root / "train"), "validation": table(image_root / "val")}
    )


def save(splits, folder):
    splits.save_to_disk(folder)
    return str(folder)


def same_images(ours, folder):
    """Whether both hold the same (pixels, class) pairs, in any order."""
    pairs = [sorted((bytes(i.flatten().tolist()), k) for i, k in s) for s in (ours, folder)]
    return pairs[0] == pairs[1]


def items(images):
    return [(images[i], int(images.labels[i])) for i in range(len(images))]


def rows(images):
    """The row of each image in its data set, and its label."""
    return list(zip(images.rows.tolist(), images.labels.tolist(), strict=True))


def test_a_saved_set_holds_the_images_of_its_folder(tmp_path, image_root, splits):
    name = save(splits, tmp_path / "saved")
    data = hugging_face(name)
    folder = image_folder(image_root)
    assert data.classes == folder.classes == ("blue", "green", "red")
    assert (data.split, data.image_size, data.flip) == ("val", 16, True)
    assert (data.mean, data.std) == (folder.mean, folder.std)
    for ours, theirs in ((data.train, folder.train), (data.evaluation, folder.evaluation)):
        assert same_images(items(ours), items(theirs))
    image, label = data.train[0], data.train.labels[0]
    assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.uint8, 2)
    assert data.train.name(5) == f"{name}[train][5]"
    assert data.evaluation.name(0) == f"{name}[validation][0]"
    assert hugging_face(name, image_size=48).image_size == 48


def test_an_image_folder_is_read_as_ours(image_root):
    data, folder = hugging_face(str(image_root)), image_folder(image_root)
    assert (data.classes, data.split) == (folder.classes, "val")
    assert same_images(items(data.train), items(folder.train))
    assert same_images(items(data.evaluation), items(folder.evaluation))


def test_parquet_files_are_read(tmp_path, splits):
    folder = tmp_path / "parquet"
    folder.mkdir()
    splits["train"].to_parquet(folder / "train.parquet")
    splits["validation"].to_parquet(folder / "test.parquet")
    data = hugging_face(str(folder))
    assert (data.classes, data.split, len(data.train)) == (("blue", "green", "red"), "test", 36)
    saved = items(hugging_face(save(splits, tmp_path / "saved")).train)
    assert same_images(items(data.train), saved)


def test_loader_workers_get_a_copy(tmp_path, splits):
    images = hugging_face(save(splits, tmp_path / "saved")).train
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy[7], images[7])
    loader = torch.utils.data.DataLoader(images, batch_size=9, num_workers=2)
    assert torch.equal(torch.cat(list(loader)), torch.stack([image for image, _ in items(images)]))


def test_a_share_is_held_out_as_of_a_folder(tmp_path, splits):
    name = save(datasets.DatasetDict(train=splits["train"]), tmp_path / "saved")
    data, again, other = (hugging_face(name, val_split=0.25, seed=s) for s in (1, 1, 2))
    assert (len(data.train), len(data.evaluation), data.split) == (27, 9, "held out")
    assert sorted(label for _, label in items(data.evaluation)) == [0] * 3 + [1] * 3 + [2] * 3
    assert rows(data.evaluation) == rows(again.evaluation) != rows(other.evaluation)
    assert sorted(rows(data.train) + rows(data.evaluation)) == [(i, 2 - i // 12) for i in range(36)]
    row, _ = rows(data.evaluation)[4]
    assert data.evaluation.name(4) == f"{name}[train][{row}]"
    single = save(splits["train"], tmp_path / "single")
    assert rows(hugging_face(single, val_split=0.25, seed=1).evaluation) == rows(data.evaluation)


def test_an_unlabelled_test_split_does_not_count(tmp_path, splits):
    blind = splits["validation"].cast_column("label", datasets.Value("int64"))
    blind = blind.map(lambda row: {"label": -1}).cast_column("label", splits["train"].features["label"])
    name = save(datasets.DatasetDict(train=splits["train"], test=blind), tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved has no labelled val or test split: .*--val-split 0.2"):
        hugging_face(name)
    assert hugging_face(name, val_split=0.5).split == "held out"
    with pytest.raises(ValueError, match=r"\[train\]\[0\] has the label -1 of 3 classes: filter"):
        hugging_face(save(blind, tmp_path / "blind"), val_split=0.5)


def test_every_mode_comes_as_rgb(tmp_path):
    pictures = [
        Image.new("RGB", (8, 6), (250, 3, 4)),
        Image.new("L", (8, 6), 77),
        Image.new("RGBA", (8, 6), (1, 2, 3, 255)),
        Image.new("I;16", (8, 6), 65535),
    ]
    features = datasets.Features(img=datasets.Image(), labels=datasets.ClassLabel(names=["a", "b"]))
    dataset = datasets.Dataset.from_dict({"img": pictures, "labels": [0, 0, 1, 1]}, features=features)
    data = hugging_face(save(dataset, tmp_path / "saved"), val_split=0.5)
    places = rows(data.train) + rows(data.evaluation)
    everything = dict(zip(places, items(data.train) + items(data.evaluation), strict=True))
    colours = [everything[row][0][:, 0, 0].tolist() for row in sorted(everything)]
    assert colours == [[250, 3, 4], [77] * 3, [1, 2, 3], [255] * 3]
    assert {tuple(image.shape) for image, _ in everything.values()} == {(3, 6, 8)}


def test_columns_are_chosen_by_feature_and_name(tmp_path, splits):
    one = splits["train"]
    fine = one.rename_column("label", "fine_label").add_column(
        "coarse_label", [0, 1] * 18, feature=datasets.ClassLabel(names=["x", "y"])
    )
    assert hugging_face(save(fine, tmp_path / "fine"), val_split=0.5).classes == ("blue", "green", "red")
    odd = fine.rename_columns({"fine_label": "colour", "image": "photo"})
    with pytest.raises(ValueError, match=r"several columns of labels .*, colour, coarse_label: .*'label'"):
        hugging_face(save(odd, tmp_path / "odd"), val_split=0.5)
    only = odd.remove_columns("coarse_label")
    assert len(hugging_face(save(only, tmp_path / "only"), val_split=0.5).train) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda one: one.cast_column("label", datasets.Value("int64")),
            r"no column of labels \(ClassLabel\), but image \(.*\), label \(int64\): .*class_encode_column",
        ),
        (
            lambda one: one.remove_columns("image"),
            r"no column of images .*, but label \(int64\).*cast_column",
        ),
        (
            lambda one: (
                one.select(range(12, 15))
                .cast_column("label", datasets.Value("string"))
                .class_encode_column("label")
            ),
            r"\[train\] needs images of at least two classes, got 3 of 1",
        ),
    ],
)
def test_unfit_columns_are_listed(tmp_path, splits, change, message):
    with pytest.raises(ValueError, match=message):
        hugging_face(save(change(splits["train"]), tmp_path / "saved"), val_split=0.5)


def test_unfit_splits_are_named(tmp_path, image_root, splits):
    name = save(splits, tmp_path / "saved")
    with pytest.raises(ValueError, match="has a val split, so --val-split"):
        hugging_face(name, val_split=0.5)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\), got 1"):
        hugging_face(name, val_split=1)
    two = datasets.DatasetDict(a=splits["train"], b=splits["train"])
    with pytest.raises(ValueError, match="no split 'train', but a, b"):
        hugging_face(save(two, tmp_path / "two"))
    other = table(image_root / "val", classes=["blue", "green", "red", "white"])
    with pytest.raises(ValueError, match=r"train and test of .* differ in their columns or classes"):
        hugging_face(save(datasets.DatasetDict(train=splits["train"], test=other), tmp_path / "other"))


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_broken_image_names_its_place(tmp_path, splits, content):
    good = splits["train"].with_format(None).cast_column("image", datasets.Image(decode=False))
    stored = list(good["image"])
    stored[20] = content and {"bytes": content, "path": None}
    columns = {"image": stored, "label": good["label"][:]}
    rows = datasets.Dataset.from_dict(columns, features=splits["train"].features)
    name = save(datasets.DatasetDict(train=rows, test=splits["validation"]), tmp_path / "saved")
    with pytest.raises(
        UnreadableImageError, match=r"saved\[train\]\[20\]: (unknown|no image is stored).*filter"
    ):
        hugging_face(name).train[20]


# -- the network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar100", "owner/name", "owner/name:config"])
def test_the_hub_is_not_asked_unless_allowed(name):
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match=rf"cannot load the data set {name}: .*get it with --download"):
        hugging_face(name)
    assert datasets.config.HF_HUB_OFFLINE is before


def test_what_was_downloaded_before_is_used_without_network(tmp_path, splits):
    """The cache that the library leaves behind, made by its own writer under a name of the hub."""
    source = tmp_path / "parquet"
    source.mkdir()
    splits["train"].to_parquet(source / "train.parquet")
    splits["validation"].to_parquet(source / "validation.parquet")
    datasets.load_dataset(str(source), cache_dir=str(tmp_path / "made"))
    (made,) = (tmp_path / "made").glob("parquet/*/*/*/dataset_info.json")
    cached = tmp_path / "cache" / "owner___colours" / "default" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(made.parent, cached)
    for arrow in cached.glob("*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("parquet-", "colours-")))
    info = cached / "dataset_info.json"
    info.write_text(info.read_text().replace('"dataset_name": "parquet"', '"dataset_name": "colours"'))
    for name in ("owner/colours", "owner/colours:default"):
        data = hugging_face(name)
        assert (len(data.train), data.split) == (36, "val")
        assert data.train.name(0) == f"{name}[train][0]"
    with pytest.raises(ValueError, match="cannot load the data set owner/colours:large"):
        hugging_face("owner/colours:large")


def test_download_lets_the_library_ask(monkeypatch, splits):
    asked = []

    def load(path, config):
        asked.append((path, config, datasets.config.HF_HUB_OFFLINE))
        return splits

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    hugging_face("owner/name:large", download=True)
    hugging_face("owner/name")
    assert asked == [("owner/name", "large", False), ("owner/name", None, True)]
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("line", ["data_files: https://x.org/a.parquet", "- path: 's3://bucket/a.parquet'"])
def test_a_card_cannot_send_for_files(image_root, line):
    card = f"---\nlicense: mit\nconfigs:\n- config_name: a\n  {line}\n---\nSee https://x.org\n"
    (image_root / "README.md").write_text(card)
    with pytest.raises(ValueError, match=r"README\.md takes its data from .*://.*a\.parquet.*--download"):
        hugging_face(str(image_root))


def test_an_address_as_image_is_not_followed(tmp_path):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    far = {"bytes": None, "path": "https://example.org/a.png"}
    rows = datasets.Dataset.from_dict({"image": [far] * 4, "label": [0, 0, 1, 1]}, features=features)
    folder = tmp_path / "parquet"
    folder.mkdir()
    pyarrow.parquet.write_table(rows.data.table, folder / "train.parquet")
    data = hugging_face(str(folder), val_split=0.5, image_size=8)
    with pytest.raises(UnreadableImageError, match="No such file"):
        data.train[0]


@pytest.mark.parametrize("name", ["/no/where", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_name_of_the_hub(name):
    with pytest.raises(ValueError, match=f"there is no folder {name}"):
        hugging_face(name)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"cannot load the data set .*folder: .*; it must be made by"):
        hugging_face(str(tmp_path / "folder"))


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'recursivemix\[hub\]'"):
        hugging_face("cifar100")
