"""Checkpoint files: the checksum notices every flipped bit, and reading runs no code."""

import hashlib
import os
import re
import zipfile

import pytest
import timm
import torch

from recursivemix.models.checkpoint_file import (
    CheckpointError,
    is_intact,
    read_checkpoint,
    read_tensors,
    write_checkpoint,
)

CONTENT = {
    "state_dict": {"network.weight": torch.arange(12.0).view(3, 4), "network.bias": torch.zeros(3)},
    "hyper_parameters": {"model": "resnet20", "classes": ["a", "b"], "lr": None},
    "epoch": 3,
}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(CONTENT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_what_is_written_is_read(path):
    content = read_checkpoint(path)
    assert content["epoch"] == 3
    assert content["hyper_parameters"] == CONTENT["hyper_parameters"]
    for name, value in CONTENT["state_dict"].items():
        assert torch.equal(content["state_dict"][name], value)
    assert "checkpoint_format" not in CONTENT  # the caller's dictionary is left alone


def test_torch_and_zip_tools_read_the_file_too(path):
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    assert comment == b"recursivemix sha256 " + hashlib.sha256(data[: -len(comment)]).hexdigest().encode()
    for mmap in (False, True):
        assert torch.load(path, weights_only=True, mmap=mmap)["epoch"] == 3


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_noticed(path):
    """Every byte of the file in turn, with another of its bits each time."""
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        assert not is_intact(path)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_checkpoint(path)
    path.write_bytes(data)
    assert read_checkpoint(path)["epoch"] == 3


@pytest.mark.parametrize("keep", [0, 1, 21, 0.5, -1, -84])
def test_a_file_that_was_cut_off_is_noticed(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(path)


def test_bytes_at_the_end_are_noticed(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="its checksum is missing"):
        read_checkpoint(path)


def test_intact_checkpoints_of_the_run_are_offered(path):
    write_checkpoint(CONTENT, path.with_name("best.ckpt"))
    path.with_name("also-damaged.ckpt").write_bytes(b"noise")
    path.write_bytes(path.read_bytes()[:-100])
    offer = f"intact checkpoints of the same run: {path.with_name('best.ckpt')}"
    for damaged in (path, path.with_name("missing.ckpt")):
        with pytest.raises(CheckpointError, match=re.escape(offer)) as refusal:
            read_checkpoint(damaged)
        assert "also-damaged" not in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_the_checkpoints_of_a_run_folder_are_offered(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    write_checkpoint(CONTENT, last)
    with pytest.raises(CheckpointError, match=rf"no checkpoint \S+run; .*{re.escape(str(last))}$"):
        read_checkpoint(tmp_path / "run")


def test_files_of_earlier_versions_are_read_with_a_warning(tmp_path):
    torch.save(CONTENT, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="has no checksum"):
        assert read_checkpoint(tmp_path / "old.ckpt")["epoch"] == 3
    assert not is_intact(tmp_path / "old.ckpt")


class RunsCode:
    """An object whose unpickling calls a function."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(CONTENT | {"epoch": RunsCode()}, "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"damaged or not a checkpoint \(.*GLOBAL") as refusal:
        read_checkpoint(tmp_path / "evil.ckpt")
    assert "weights_only" not in str(refusal.value)  # torch's advice to read it unsafely
    assert [path.name for path in tmp_path.iterdir()] == ["evil.ckpt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([1, 2], "it holds list, not a table"),
        ({"state_dict": None}, "its state_dict is NoneType, not a table by name"),
        ({"state_dict": [1]}, "its state_dict is list, not a table by name"),
        ({"state_dict": {1: torch.zeros(1)}}, "its state_dict is dict, not a table by name"),
        ({"state_dict": {"a": [0.0]}}, "the weight a must be a dense tensor, got list"),
        ({"state_dict": {"a": torch.zeros(2, 2).to_sparse()}}, "the weight a must be a dense tensor, got "),
        ({"state_dict": {"a": torch.zeros(2, device="meta")}}, "the weight a must be a dense tensor, got "),
        ({"hyper_parameters": None}, "its hyper_parameters is NoneType"),
        ({"hyper_parameters": 5}, "its hyper_parameters is int"),
        ({"checkpoint_format": 99}, "has checkpoint format 99; .* upgrade recursivemix"),
        ({"checkpoint_format": "1"}, "has checkpoint format '1'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has no checksum")
def test_other_content_is_named(tmp_path, change, message):
    content = CONTENT | change if isinstance(change, dict) else change
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=message) as refusal:
        read_checkpoint(tmp_path / "other.ckpt")
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / "other.ckpt") in str(refusal.value)


def test_a_missing_table_is_named(tmp_path):
    write_checkpoint({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="its hyper_parameters is missing"):
        read_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_taken_as_timm_does(average, tmp_path):
    """Training scripts of timm and torchvision write both tables."""
    other = "state_dict" if average == "state_dict_ema" else "model"
    file = tmp_path / "weights.pth"
    torch.save({other: {"weight": torch.zeros(2)}, average: {"weight": torch.ones(2)}}, file)
    assert torch.equal(read_tensors(file)[0]["weight"], timm.models.load_state_dict(str(file))["weight"])
