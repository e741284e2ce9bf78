"""CIFAR's official files, written small by the test and read beside torchvision and a loop over bytes."""

import os
import pickle
import struct
import tarfile
from io import BytesIO
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from recursivemix.data.formats.cifar import LAYOUTS, cifar, find_cifar

NAMES = {"cifar10": [f"class{i}" for i in range(10)], "cifar100": [f"fine{i}" for i in range(100)]}
BOTH = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


class Python2Pickler(pickle._Pickler):
    """Writes strings, bytes and array modules as the Python 2 did that made the official files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_str(self, value):
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str


def pickled(value, style):
    if style != "python 2":
        return pickle.dumps(value, protocol=style)
    stream = BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.", b"numpy.core.")


def write_cifar(root, name, version, *, count=3, style=2):
    """An official folder with ``count`` random images a file; returns it."""
    layout = LAYOUTS[name][version]
    folder = root / layout.folder
    folder.mkdir(parents=True)
    for seed, file in enumerate([*layout.train, layout.test]):
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (count, 3072), generator=generator, dtype=torch.uint8).numpy()
        labels = torch.randint(len(NAMES[name]), (count,), generator=generator).tolist()
        if version == 0:
            entry = {"data": pixels, "filenames": ["x.png"] * count, "batch_label": "small"}
            entry |= (
                {"labels": labels} if name == "cifar10" else {"fine_labels": labels, "coarse_labels": [0]}
            )
            (folder / file).write_bytes(pickled(entry, style))
        else:
            coarse = [] if name == "cifar10" else [7]
            records = [
                bytes([*coarse, label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)
            ]
            (folder / file).write_bytes(b"".join(records))
    if version == 0:
        key = {"cifar10": "label_names", "cifar100": "fine_label_names"}[name]
        (folder / layout.names).write_bytes(pickled({key: NAMES[name], "num_vis": 3072}, style))
    else:
        (folder / layout.names).write_text("\n".join(NAMES[name]) + "\n\n")
    return folder


def pack(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def looked_up(content, label_bytes):
    """Images and labels of a binary file, byte by byte as the official page describes them."""
    images, labels = [], []
    for start in range(0, len(content), label_bytes + 3072):
        labels.append(content[start + label_bytes - 1])
        first = start + label_bytes
        images.append(
            [
                [[content[first + 1024 * c + 32 * y + x] for x in range(32)] for y in range(32)]
                for c in range(3)
            ]
        )
    return torch.tensor(images, dtype=torch.uint8), torch.tensor(labels)


@BOTH
def test_the_binary_version_is_read_to_the_byte(tmp_path, name):
    folder = write_cifar(tmp_path, name, 1)
    data = cifar(tmp_path, name)
    layout = LAYOUTS[name][1]
    for part, files in ((data.train, layout.train), (data.evaluation, [layout.test])):
        content = b"".join((folder / file).read_bytes() for file in files)
        images, labels = looked_up(content, 1 if name == "cifar10" else 2)
        assert torch.equal(part.images, images)
        assert torch.equal(part.labels, labels)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
    assert data.classes == tuple(NAMES[name])
    assert (data.split, data.image_size, data.flip) == ("test", 32, True)
    assert data.train.name(2) == f"{name}, train, image 2"


@BOTH
@pytest.mark.parametrize("style", ["python 2", 2, 5])
def test_the_python_version_is_read_as_torchvision_does(tmp_path, monkeypatch, name, style):
    write_cifar(tmp_path, name, 0, style=style)
    peer = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    # Without its checksums, which only the real files have.
    monkeypatch.setattr(peer, "train_list", [[file, None] for file, _ in peer.train_list])
    monkeypatch.setattr(peer, "test_list", [[file, None] for file, _ in peer.test_list])
    monkeypatch.setattr(peer, "meta", {**peer.meta, "md5": None})
    data = cifar(tmp_path, name)
    for part, train in ((data.train, True), (data.evaluation, False)):
        theirs = peer(tmp_path, train=train)
        assert np.array_equal(part.images.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert part.labels.tolist() == theirs.targets
        assert data.classes == tuple(theirs.classes)


@BOTH
@pytest.mark.parametrize("version", [0, 1])
def test_every_place_is_found(tmp_path, name, version):
    folder = write_cifar(tmp_path / "set", name, version)
    expected = cifar(tmp_path / "set", name)
    archives = tmp_path / "archives"
    archives.mkdir()
    archive = pack(folder, archives / LAYOUTS[name][version].archive)
    renamed = folder.rename(tmp_path / "renamed")
    for root in (renamed, archives, archive):
        assert find_cifar(root) == name
        data = cifar(root, name)
        assert torch.equal(data.train.images, expected.train.images)
        assert torch.equal(data.evaluation.labels, expected.evaluation.labels)
        assert data.classes == expected.classes


def test_what_is_there_is_told(tmp_path, image_root):
    assert find_cifar(tmp_path / "nothing") is None
    assert find_cifar(image_root) is None
    ten = write_cifar(tmp_path, "cifar10", 1)
    assert find_cifar(tmp_path) == find_cifar(ten) == "cifar10"
    write_cifar(tmp_path, "cifar100", 0)
    with pytest.raises(ValueError, match=r"holds both CIFAR-10 and CIFAR-100.*batches-bin or .*100-python"):
        find_cifar(tmp_path)
    assert len(cifar(tmp_path, "cifar100").classes) == 100


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch):
    def download(root, train, download):
        write_cifar(root, "cifar10", 0)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    with pytest.raises(ValueError, match=r"there is no cifar10 in .*cifar-10-binary\.tar\.gz.*--download"):
        cifar(tmp_path, "cifar10")
    assert not list(tmp_path.iterdir())
    assert len(cifar(tmp_path, "cifar10", download=True).train) == 15
    assert len(cifar(tmp_path, "cifar10", download=True).train) == 15  # the second time it is there


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fail)
    with pytest.raises(ValueError, match=r"cannot download cifar100 into .*no route to host.*yourself"):
        cifar(tmp_path, "cifar100", download=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("version", "file", "spoil", "message"),
    [
        (1, "data_batch_2.bin", cut, "9119 bytes are no whole number of 3073-byte records"),
        (1, "test_batch.bin", lambda p: p.write_bytes(b""), "no images in it"),
        (1, "test_batch.bin", lambda p: p.write_bytes(bytes([10]) * 3073), "labels 10 to 10 of 10 classes"),
        (1, "batches.meta.txt", lambda p: p.write_text("cat\ndog\n"), "2 class names instead of 10"),
        (0, "data_batch_5", cut, "corrupt or cut off"),
        (0, "data_batch_5", lambda p: p.write_bytes(b"<html>"), "corrupt or cut off"),
        (0, "test_batch", lambda p: p.write_bytes(pickle.dumps([1, 2])), "no 'data' and 'labels' in it"),
        (
            0,
            "test_batch",
            lambda p: p.write_bytes(pickle.dumps({"data": np.zeros((2, 9), np.uint8), "labels": [1, 2]})),
            r"its data are uint8 \(2, 9\)",
        ),
        (
            0,
            "test_batch",
            lambda p: p.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]})),
            "2 images and labels of shape",
        ),
        (0, "batches.meta", lambda p: p.write_bytes(pickle.dumps({})), "0 class names instead of 10"),
    ],
)
def test_a_broken_file_is_named(tmp_path, version, file, spoil, message):
    folder = write_cifar(tmp_path, "cifar10", version)
    spoil(folder / file)
    with pytest.raises(ValueError, match=rf"{file} is corrupt or cut off: .*unpack") as caught:
        cifar(tmp_path, "cifar10")
    assert caught.match(message)


def test_a_missing_file_is_named(tmp_path):
    folder = write_cifar(tmp_path, "cifar10", 0)
    (folder / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"batches-py lacks data_batch_3; remove .* unpack"):
        cifar(tmp_path, "cifar10")


@pytest.mark.parametrize("content", [b"<html>no such file</html>", None])
def test_a_broken_archive_is_named(tmp_path, content):
    folder = write_cifar(tmp_path / "set", "cifar10", 1)
    archive = pack(folder, tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(content or archive.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cannot read .*cifar-10-binary\.tar\.gz: .*unpack"):
        cifar(tmp_path, "cifar10")


class Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_pickle_runs_no_code(tmp_path):
    folder = write_cifar(tmp_path, "cifar100", 0)
    (folder / "train").write_bytes(pickle.dumps({"data": Harmful(tmp_path / "harm")}))
    with pytest.raises(ValueError, match=r"train is corrupt.*asks for posix\.mkdir"):
        cifar(tmp_path, "cifar100")
    assert not (tmp_path / "harm").exists()


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of cifar10, cifar100, got 'svhn'"):
        cifar(tmp_path, "svhn")
