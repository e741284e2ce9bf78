"""Streams of the datasets library, from files on this machine: the same images as when they are loaded."""

import pickle
from pathlib import Path

import pytest
import torch

datasets = pytest.importorskip("datasets")
pytest.importorskip("pyarrow")

from recursivemix.data.open import open_data  # noqa: E402

CLASSES = ["blue", "green", "red"]


@pytest.fixture
def parquet(tmp_path, image_root, monkeypatch):
    """36 training images in three files, 15 for evaluation in one."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    datasets.disable_progress_bars()
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, files in (("train", 3), ("validation", 1)):
        paths = sorted((image_root / ("train" if files == 3 else "val")).rglob("*.png"))
        for number in range(files):
            part = paths[number::files]
            columns = {
                "image": [{"path": None, "bytes": path.read_bytes()} for path in part],
                "label": [CLASSES.index(path.parent.name) for path in part],
                "note": ["x"] * len(part),
            }
            features = datasets.Features(
                image=datasets.Image(),
                label=datasets.ClassLabel(names=CLASSES),
                note=datasets.Value("string"),
            )
            one = datasets.Dataset.from_dict(columns, features=features)
            one.to_parquet(folder / f"{split}-{number:05d}-of-{files:05d}.parquet")
    return folder


def test_a_stream_holds_the_images_of_the_loaded_set(tmp_path, parquet):
    data = open_data(parquet, "hf-stream", shard_cache=tmp_path / "cache")
    loaded = open_data(parquet, "hf")
    assert (data.classes, data.split, data.image_size) == (loaded.classes, "val", 16)
    for ours, theirs in ((data.train, loaded.train), (data.evaluation, loaded.evaluation)):
        assert torch.equal(ours.labels, theirs.labels)
        assert all(torch.equal(ours[i], theirs[i]) for i in range(len(theirs)))
    assert data.train.blocks.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert data.train.name(13) == f"{parquet}[train], shard 1, 00000001"
    copy = pickle.loads(pickle.dumps(data.train))  # for loader workers
    for path in (tmp_path / "cache").glob("*.shard"):
        path.unlink()  # and there they are fetched again
    assert torch.equal(copy[30], loaded.train[30])


def test_rows_without_image_or_label_are_named_or_left_out(tmp_path, parquet):
    whole = datasets.Dataset.from_parquet(str(next(parquet.glob("validation*"))), cache_dir=tmp_path / "c")
    columns = whole.cast_column("image", datasets.Image(decode=False)).with_format(None)[:]
    columns["image"][3], columns["label"][5] = None, -1
    changed = datasets.Dataset.from_dict(columns, features=whole.features)
    changed.to_parquet(next(parquet.glob("validation*")))
    options = {"shard_cache": tmp_path / "cache"}
    with pytest.raises(ValueError, match=r"shard 0, 00000003: the sample has no image \(2 such\)"):
        open_data(parquet, "hf-stream", **options)
    data = open_data(parquet, "hf-stream", skip_bad=True, **options)
    assert len(data.evaluation) == 13
    assert [text.partition(", shard 0, ")[2] for text in data.skipped] == [
        "00000003: the sample has no image", "00000005: it has no label",
    ]  # fmt: skip


def test_other_sets_are_refused(tmp_path, parquet):
    datasets.load_dataset(str(parquet)).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"made by save_to_disk.*use --dataset hf"):
        open_data(tmp_path / "saved", "hf-stream")
    for path in parquet.glob("train*"):
        path.rename(path.with_name(path.name.replace("train", "test")))
    with pytest.raises(ValueError, match="has no split 'train', but "):
        open_data(parquet, "hf-stream")
    with pytest.raises(ValueError, match="there is no folder"):
        open_data(Path("/no/where"), "hf-stream")
