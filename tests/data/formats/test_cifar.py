"""CIFAR's official files, written small by the test and read beside a loop over their bytes."""

import hashlib
import pickle
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch

from recursivemix.data.formats.cifar import SETS, cifar, find_cifar
from recursivemix.data.open import open_data

NAMES = {"cifar10": [f"class{i}" for i in range(10)], "cifar100": [f"fine{i}" for i in range(100)]}
LABEL_KEYS = {"cifar10": ("labels", "label_names"), "cifar100": ("fine_labels", "fine_label_names")}
BOTH = pytest.mark.parametrize("name", ["cifar10", "cifar100"])
PYTHON, BINARY = 0, 1


@pytest.fixture
def write_cifar(monkeypatch):
    """Write an official folder of ``count`` random images per file, and set torchvision's MD5 sums."""

    def write(root, name, version, *, count=3):
        label_file, names_key = LABEL_KEYS[name]
        dataset = SETS[name]
        folder = root / dataset.versions[version][0]
        folder.mkdir(parents=True)
        lists = [
            [file for file, _ in part] for part in (dataset.reader.train_list, dataset.reader.test_list)
        ]
        for seed, file in enumerate([*lists[0], *lists[1]]):
            generator = torch.Generator().manual_seed(seed)
            pixels = torch.randint(256, (count, 3072), generator=generator, dtype=torch.uint8).numpy()
            labels = torch.randint(len(NAMES[name]), (count,), generator=generator).tolist()
            if version == PYTHON:
                entry = {"data": pixels, "filenames": ["x.png"] * count, label_file: labels}
                (folder / file).write_bytes(pickle.dumps(entry, protocol=2))
            else:
                coarse = [] if name == "cifar10" else [7]
                records = [
                    bytes([*coarse, label]) + row.tobytes()
                    for label, row in zip(labels, pixels, strict=True)
                ]
                (folder / f"{file}.bin").write_bytes(b"".join(records))
        if version == PYTHON:
            meta = dataset.reader.meta["filename"]
            (folder / meta).write_bytes(pickle.dumps({names_key: NAMES[name], "num_vis": 3072}, protocol=2))
            sums = {
                f: hashlib.md5((folder / f).read_bytes()).hexdigest() for f in (*lists[0], *lists[1], meta)
            }
            for attribute, files in zip(("train_list", "test_list"), lists, strict=True):
                monkeypatch.setattr(dataset.reader, attribute, [[file, sums[file]] for file in files])
            monkeypatch.setattr(dataset.reader, "meta", {**dataset.reader.meta, "md5": sums[meta]})
        else:
            (folder / dataset.class_names).write_text("\n".join(NAMES[name]) + "\n\n")
        return folder

    return write


def pack(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def parsed_records(content, label_bytes):
    """Images and labels of a binary file, byte by byte as the official page describes them."""
    images, labels = [], []
    for start in range(0, len(content), label_bytes + 3072):
        labels.append(content[start + label_bytes - 1])
        images.append(parsed_pixels(content[start + label_bytes :]))
    return torch.tensor(images, dtype=torch.uint8), torch.tensor(labels)


def parsed_pixels(row):
    return [[[row[1024 * c + 32 * y + x] for x in range(32)] for y in range(32)] for c in range(3)]


def files_of(name, folder, suffix=""):
    lists = (SETS[name].reader.train_list, SETS[name].reader.test_list)
    return [[folder / f"{file}{suffix}" for file, _ in part] for part in lists]


@BOTH
def test_the_binary_version_is_read_to_the_byte(tmp_path, write_cifar, name):
    folder = write_cifar(tmp_path, name, BINARY)
    data = cifar(tmp_path, name)
    for part, files in zip((data.train, data.evaluation), files_of(name, folder, ".bin"), strict=True):
        content = b"".join(file.read_bytes() for file in files)
        images, labels = parsed_records(content, 1 if name == "cifar10" else 2)
        assert torch.equal(part.images, images)
        assert torch.equal(part.labels, labels)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
    assert data.classes == tuple(NAMES[name])
    assert (data.split, data.image_size, data.flip) == ("test", 32, True)
    assert data.train.name(2) == f"{name}, train, image 2"


@BOTH
def test_the_python_version_is_read_to_the_byte(tmp_path, write_cifar, name):
    folder = write_cifar(tmp_path, name, PYTHON)
    data = cifar(tmp_path, name)
    for part, files in zip((data.train, data.evaluation), files_of(name, folder), strict=True):
        entries = [pickle.loads(file.read_bytes()) for file in files]
        images = [parsed_pixels(row.tolist()) for entry in entries for row in entry["data"]]
        labels = [label for entry in entries for label in entry[LABEL_KEYS[name][0]]]
        assert torch.equal(part.images, torch.tensor(images, dtype=torch.uint8))
        assert part.labels.tolist() == labels
        assert part.images.is_contiguous()
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
    assert data.classes == tuple(NAMES[name])


@BOTH
@pytest.mark.parametrize("version", [PYTHON, BINARY])
def test_every_place_is_found(tmp_path, write_cifar, name, version):
    folder = write_cifar(tmp_path / "set", name, version)
    expected = cifar(tmp_path / "set", name)
    archives = tmp_path / "archives"
    archives.mkdir()
    archive = pack(folder, archives / SETS[name].versions[version][1])
    renamed = folder.rename(tmp_path / "renamed")
    for root in (renamed, archives, archive):
        assert find_cifar(root, name) == (archive if root == archives else root)
        data = open_data(root)
        assert torch.equal(data.train.images, expected.train.images)
        assert torch.equal(data.evaluation.labels, expected.evaluation.labels)
        assert data.classes == expected.classes
    assert sorted(path.name for path in archives.iterdir()) == [archive.name]  # nothing is unpacked there


def test_both_data_sets_in_one_folder_need_a_name(tmp_path, write_cifar, image_root):
    for name in ("cifar10", "cifar100"):
        assert find_cifar(tmp_path / "nothing", name) is None
        assert find_cifar(image_root, name) is None
    folder = write_cifar(tmp_path, "cifar10", BINARY)
    assert find_cifar(tmp_path, "cifar10") == find_cifar(folder, "cifar10") == folder
    assert find_cifar(tmp_path, "cifar100") is None
    write_cifar(tmp_path, "cifar100", PYTHON)
    with pytest.raises(ValueError, match=r"holds several data sets, cifar10, cifar100: .*--dataset"):
        open_data(tmp_path)
    assert len(open_data(tmp_path, "cifar100").classes) == 100


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch, write_cifar):
    def download(self, root, train, download):
        assert (train, download) == (False, True)
        monkeypatch.undo()
        write_cifar(root, "cifar10", PYTHON)

    reader = SETS["cifar10"].reader
    monkeypatch.setattr(reader, "__init__", download)
    with pytest.raises(ValueError, match=r"there is no cifar10 in .*cifar-10-binary\.tar\.gz.*--download"):
        open_data(tmp_path, "cifar10")
    assert not list(tmp_path.iterdir())
    assert len(open_data(tmp_path, "cifar10", download=True).train) == 15
    assert len(open_data(tmp_path, "cifar10", download=True).train) == 15  # the second time it is there


def test_a_download_that_fails_says_why(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(SETS["cifar100"].reader, "__init__", fail)
    with pytest.raises(ValueError, match=r"cannot download cifar100 into .*no route to host.*yourself"):
        cifar(tmp_path, "cifar100", download=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("version", "file", "spoil", "message"),
    [
        (BINARY, "data_batch_2.bin", cut, "cut off: 9119 bytes are not records of 3073 bytes"),
        (BINARY, "test_batch.bin", lambda p: p.write_bytes(b""), "cut off: 0 bytes"),
        (BINARY, "test_batch.bin", lambda p: p.write_bytes(bytes([10]) * 3073), "the label 10 in"),
        (BINARY, "batches.meta.txt", lambda p: p.write_text("cat\ndog\n"), "2 class names instead of 10"),
        (PYTHON, "data_batch_5", cut, "the MD5 sum of"),
        (PYTHON, "data_batch_5", lambda p: p.write_bytes(b"<html>"), "the MD5 sum of"),
        (PYTHON, "batches.meta", lambda p: p.write_bytes(pickle.dumps({})), "the MD5 sum of"),
    ],
)
def test_a_broken_file_is_named(tmp_path, write_cifar, version, file, spoil, message):
    folder = write_cifar(tmp_path, "cifar10", version)
    spoil(folder / file)
    with pytest.raises(ValueError, match=rf"{file}.*unpack") as caught:
        cifar(tmp_path, "cifar10")
    assert caught.match(message)


def test_a_missing_file_is_named(tmp_path, write_cifar):
    folder = write_cifar(tmp_path, "cifar10", PYTHON)
    (folder / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"batches-py lacks data_batch_3; remove .* unpack"):
        cifar(tmp_path, "cifar10")


@pytest.mark.parametrize("content", [b"<html>no such file</html>", None])
def test_a_broken_archive_is_named(tmp_path, write_cifar, content):
    folder = write_cifar(tmp_path / "set", "cifar10", BINARY)
    archive = pack(folder, tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(content or archive.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cannot read .*cifar-10-binary\.tar\.gz: .*unpack"):
        cifar(tmp_path, "cifar10")


def test_a_pickle_of_another_sum_is_never_loaded(tmp_path, monkeypatch, write_cifar):
    """Its MD5 sum is checked before it is unpickled, so no code in it can run."""
    folder = write_cifar(tmp_path, "cifar100", PYTHON)
    (folder / "train").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}))
    monkeypatch.setattr(pickle, "load", lambda *args, **options: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="the MD5 sum of train is not the official one"):
        cifar(tmp_path, "cifar100")


def test_options_that_do_not_apply_are_named(tmp_path, write_cifar):
    write_cifar(tmp_path, "cifar10", BINARY)
    assert open_data(tmp_path, image_size=48).image_size == 48
    with pytest.raises(ValueError, match="--val-split does not apply to --dataset cifar10"):
        open_data(tmp_path, val_split=0.1)
