"""Shards: every process reads any image, each once an epoch; copies are made, shared and deleted."""

import gzip
import io
import json
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import EvaluationBatches, TrainingBatches
from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.formats.webdataset import TarShard, find_shards, split_of
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder, evaluation_batches
from recursivemix.data.settings import AugmentationSettings
from recursivemix.data.shards import LimitedFile, ShardCache
from recursivemix.data.tar_file import LONGEST_LABEL

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


def encoded(number, kind="PNG"):
    """A 16 x 16 image whose first pixel is its number."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 7)).save(stream, kind)
    return stream.getvalue()


def number_of(image):
    return int(image[0, 0, 0]) + 256 * int(image[1, 0, 0])


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def samples(numbers):
    for number in numbers:
        yield f"{number:06d}.png", encoded(number)
        yield f"{number:06d}.cls", str(number % 3).encode()


@pytest.fixture
def folder(tmp_path):
    """Training shards of 10, 13 and 7 samples, and one of 9 for evaluation; labels are numbers mod 3."""
    first = 0
    for shard, count in enumerate((10, 13, 7)):
        write_tar(tmp_path / "set" / f"train-{shard:03d}.tar", samples(range(first, first + count)))
        first += count
    write_tar(tmp_path / "set" / "val-000.tar", samples(range(300, 309)))
    return tmp_path / "set"


@pytest.fixture
def options(tmp_path):
    return {"shard_cache": tmp_path / "cache"}


@pytest.fixture
def served(folder):
    """The folder behind HTTP on this machine, and the paths that were asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def epoch_of(data, epoch=0, first=0, ranks=1, workers=0, batch_size=4):
    """The numbers of the images of each batch, of all ranks, and the batches of rank 0."""
    numbers, batches = [], []
    plain = augmentation_of(data, AugmentationSettings(crop="none", flip=False))
    for rank in range(ranks):
        order = TrainingOrder(
            len(data.train), batch_size, 5, ranks=ranks, rank=rank, blocks=data.train.blocks
        )
        loader = TrainingBatches(
            data.train, order, plain, lambda: epoch, device=CPU,
            hold=False, workers=workers,
        )  # fmt: skip
        loader.first = first
        numbers.append([])
        for batch in loader:
            images = batch.images * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(
                3, 1, 1
            )
            numbers[-1] += [number_of((255 * image).round()) for image in images]
            assert [number % 3 for number in numbers[-1][-len(images) :]] == batch.targets.tolist()
            if rank == 0:
                batches.append(batch)
    return numbers, batches


def test_samples_are_images_with_labels(folder, options):
    data = open_data(folder, **options)
    assert (data.classes, data.split, data.image_size) == (("0", "1", "2"), "val", 16)
    assert (len(data.train), len(data.evaluation)) == (30, 9)
    assert [number_of(data.train[i]) for i in range(30)] == list(range(30))
    assert data.train.labels.tolist() == [i % 3 for i in range(30)]
    assert data.train.name(11) == f"{folder / 'train-001.tar'}, 000011"
    assert data.train.blocks is None  # files on this machine are read from anywhere
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    assert open_data(folder, **options).classes == CLASSES
    (folder / "classes.txt").write_text("a\nb")
    with pytest.raises(ValueError, match=r"with the 2 names in classes\.txt, labels must be numbers"):
        open_data(folder, **options)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_are_those_of_the_library(tmp_path, options):
    """Twin: shards that the webdataset library writes and reads."""
    wds = pytest.importorskip("webdataset")
    pattern = str(tmp_path / "set" / "train-%03d.tar")
    (tmp_path / "set").mkdir()
    with wds.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
        for number in range(20):
            writer.write({"__key__": f"folder/{number:04d}", "img.png": encoded(number), "cls": number % 3})
    theirs = wds.WebDataset(find_shards(str(tmp_path / "set")), shardshuffle=False)
    data = open_data(tmp_path / "set", val_split=0.5, **options)
    source = data.train.source
    assert [(s["__key__"], s["img.png"], int(s["cls"])) for s in theirs] == [
        (source.name(row).rpartition(", ")[2], source[row], row % 3) for row in range(20)
    ]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.slow
def test_every_image_comes_once_an_epoch(folder, options, served, ranks, remote):
    data = open_data(Path_of(served[0] + "/{train-000,train-001,train-002,val-000}.tar"), **options) if (
        remote
    ) else open_data(folder, **options)  # fmt: skip
    assert (data.train.blocks is not None) == remote
    orders = []
    for epoch in (0, 1):
        numbers, _ = epoch_of(data, epoch, ranks=ranks)
        assert sorted(n for part in numbers for n in part) == list(range(30))
        orders.append(numbers)
    assert orders[0] != orders[1]
    assert orders[0] == epoch_of(data, 0, ranks=ranks)[0]
    seen = []
    for rank in range(ranks):
        batches = evaluation_batches(9, 2, ranks, rank)
        loader = EvaluationBatches(data.evaluation, batches, augmentation_of(data), device=CPU, hold=False)
        seen += [index for batch in loader for index in batch.indices.tolist() if index >= 0]
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(folder, options, served, workers):
    data = open_data(Path_of(served[0] + "/train-{000..002}.tar"), val_split=0.3, **options)
    expected = epoch_of(data, batch_size=3)[1]
    for a, b in zip(expected, epoch_of(data, batch_size=3, workers=workers)[1], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("first", [1, 3, 6])
def test_an_epoch_resumes_at_any_step(folder, options, served, first):
    data = open_data(Path_of(served[0] + "/train-{000..002}.tar"), val_split=0.1, **options)
    whole = epoch_of(data)[1]
    resumed = epoch_of(data, first=first)[1]
    assert len(resumed) == len(whole) - first
    for a, b in zip(whole[first:], resumed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_images_are_shuffled_among_a_few_shards_at_a_time(monkeypatch):
    """An epoch reads a shard to its end within about 50 images, mixed with others."""
    monkeypatch.setattr("recursivemix.data.order.SHUFFLED", 50)
    blocks = torch.arange(20).repeat_interleave(15)
    order = TrainingOrder(300, 8, 3, blocks=blocks)
    for epoch in range(3):
        images = order.epoch(epoch)
        assert sorted(images.tolist()) == list(range(300))
        for block in range(20):
            places = (blocks[images] == block).nonzero()[:, 0]
            assert 15 < places.max() - places.min() < 50 + 15  # mixed with others, but not with many
    assert not torch.equal(order.epoch(0), order.epoch(1))
    again = TrainingOrder(300, 8, 3, blocks=blocks)
    assert torch.equal(order.epoch(2), again.epoch(2))


# -- copies and indexes -----------------------------------------------------------------------------


def test_shards_are_fetched_once_and_their_index_is_kept(options, served):
    address, asked = served
    pattern = Path_of(address + "/train-{000..002}.tar")
    for _ in range(2):
        data = open_data(pattern, val_split=0.2, **options)
        epoch_of(data)
    assert sum("train-" in path for path in asked if "HEAD" not in path) <= 6  # a size and a body for each
    assert len(list(options["shard_cache"].glob("*.json"))) == 3
    before = len(asked)
    for copy in options["shard_cache"].glob("*.shard"):
        copy.unlink()
    data = open_data(pattern, val_split=0.2, **options)  # from the index alone, but for the image size
    assert len(asked) - before <= 2
    assert sorted(epoch_of(data)[0][0]) == sorted(number_of(data.train[i]) for i in range(len(data.train)))


def test_the_cache_keeps_its_limit(options, served):
    """With room for one of three copies, every image still comes once."""
    size = 40_000 / 2**30  # the copies have 20 to 30 kB
    data = open_data(
        Path_of(served[0] + "/train-{000..002}.tar"), val_split=0.1, shard_cache_gb=size, **options
    )
    numbers, _ = epoch_of(data)
    assert len(numbers[0]) == len(set(numbers[0])) == len(data.train)
    assert len(list(options["shard_cache"].glob("*.shard"))) <= 2  # the newest is always kept


def test_gzipped_shards_are_unpacked(folder, options):
    plain = open_data(folder, **options)
    for path in folder.glob("*.tar"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    data = open_data(folder, **options)
    assert data.train.blocks is not None
    for i in range(30):
        assert torch.equal(data.train[i], plain.train[i])


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_larger_than_the_cache_is_refused(tmp_path, options, monkeypatch, suffix):
    """A small file can unzip to one that fills the disk: no more than the limit is written."""
    path = write_tar(tmp_path / "shards" / "train-0.tar", [*samples(range(4)), ("x.bin", bytes(2**24))])
    if suffix == ".tar.gz":
        small = gzip.compress(path.read_bytes())
        path.unlink()
        path = path.with_name("train-0.tar.gz")
        path.write_bytes(small)
        assert len(small) < 30_000
    else:
        monkeypatch.setattr(TarShard, "path", None)  # as of a URL
    written = []
    monkeypatch.setattr(
        LimitedFile, "write", lambda self, c, write=LimitedFile.write: written.append(write(self, c))
    )
    with pytest.raises(
        ValueError, match=r"train-0\.tar.*more than 2,097,152 bytes: raise --shard-cache-gb"
    ):
        open_data(path.parent, val_split=0.5, shard_cache_gb=2 / 1024, **options)
    assert sum(written) <= 2**21
    assert [path.suffix for path in options["shard_cache"].iterdir() if path.suffix != ".lock"] == []


def test_readers_share_one_fetch(options, served):
    """Threads stand in for processes: the lock is on an open file, of which each reader has its own."""
    address, asked = served
    with ThreadPoolExecutor(4) as pool:
        copies = list(
            pool.map(
                lambda _: ShardCache(options["shard_cache"], 2**30).file(
                    TarShard(f"{address}/train-000.tar")
                ),
                range(4),
            )
        )
    assert len(set(copies)) == 1
    assert sum("train-000" in path for path in asked) <= 2  # its size and its content


def test_a_thread_reads_on_while_others_open_more_files(tmp_path, options, monkeypatch):
    """Of 64 files the first is closed for a 65th; its number then was that of another file."""
    for number in range(70):
        write_tar(tmp_path / f"train-{number:03d}.tar", samples([number]))
    source = open_data(tmp_path, val_split=0.2, **options).train.source
    pread = os.pread

    def read_late(descriptor, size, offset):
        monkeypatch.setattr(os, "pread", pread)
        with ThreadPoolExecutor(1) as pool:
            assert list(pool.map(source.__getitem__, range(1, 70))) == [encoded(k) for k in range(1, 70)]
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", read_late)
    assert source[0] == encoded(0)


def test_a_changed_file_is_indexed_again(folder, options):
    open_data(folder, **options)
    path = write_tar(folder / "train-000.tar", samples(range(40, 44)))
    os.utime(path, (1, 1))
    data = open_data(folder, **options)
    assert sorted(number_of(data.train[i]) for i in range(len(data.train)))[-4:] == [40, 41, 42, 43]


def test_an_unwritable_cache_is_no_hindrance(folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert len(open_data(folder, shard_cache=tmp_path / "file").train) == 30


# -- labels and bad samples -------------------------------------------------------------------------


def test_labels_can_be_names_or_several_or_json(tmp_path, options):
    labels = ["cat", "dog", "cat;dog", "", "dog", "cat"]
    files = []
    for i, label in enumerate(labels):
        files.append((f"s{i}.png", encoded(i)))
        if i % 2:
            files.append((f"s{i}.json", json.dumps({"label": label.split(";") if label else []}).encode()))
        else:
            files.append((f"s{i}.cls", label.encode()))
    write_tar(tmp_path / "set" / "a.tar", files)
    data = open_data(tmp_path / "set", val_split=0.4, seed=2, **options)
    assert (data.classes, data.multi_label) == (("cat", "dog"), True)
    for part in (data.train, data.evaluation):
        for i in range(len(part)):
            words = labels[number_of(part[i])].split(";")
            assert part.labels[i].tolist() == [int(name in words) for name in data.classes]


BAD = [
    (lambda files: [files[0]], "train-000.tar, 000000: the sample has no .cls, and no .json"),
    (lambda files: [files[1]], "train-000.tar, 000000: the sample has no image"),
    (lambda files: [files[0], ("000000.cls", b"")], "train-000.tar, 000000: it has no label"),
    (
        lambda files: [files[0], ("000000.cls", b"7")],
        "train-000.tar, 000000: the label '7' is in the train split",
    ),
    (lambda files: [files[0], ("000000.json", b"{")], "train-000.tar, 000000: its label cannot be read"),
    (
        lambda files: [files[0], ("000000.json", b"[" * 10**5)],
        "train-000.tar, 000000: its label cannot be read",
    ),
    (
        lambda files: [files[0], ("000000.cls", b"9" * (LONGEST_LABEL + 1))],
        "train-000.tar, 000000: its label cannot be read: it has 1048577 bytes",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_sample_is_named_or_left_out(folder, options, change, message):
    files = list(samples(range(10)))
    write_tar(folder / "train-000.tar", [*change(files[:2]), *files[2:]])
    with pytest.raises(ValueError, match=rf"{message}.*; replace the shard, .*--skip-bad"):
        open_data(folder, **options)
    data = open_data(folder, skip_bad=True, **options)
    assert [number_of(data.train[i]) for i in range(len(data.train))] == list(range(1, 30))
    assert len(data.skipped) == 1
    assert message.partition(": ")[2] in data.skipped[0]


def test_a_broken_member_is_named_or_left_out(folder, options):
    files = dict(samples(range(10)))
    files["000004.png"] = b"no image"
    write_tar(folder / "train-000.tar", files.items())
    data = open_data(folder, image_size=16, **options)
    with pytest.raises(
        UnreadableImageError, match=r"train-000\.tar, 000004: unknown image format; replace"
    ):
        data.train[4]
    data = open_data(folder, skip_bad=True, **options)
    assert len(data.train) == 29
    assert data.skipped == (f"{folder / 'train-000.tar'}, 000004: unknown image format",)


def test_a_shard_that_is_cut_off_is_named_or_used_as_far_as_it_goes(folder, options):
    path = folder / "train-001.tar"
    path.write_bytes(path.read_bytes()[: 2 * 1024 * 5 + 512 + 20])  # in the image of its sixth sample
    with pytest.raises(ValueError, match=r"train-001\.tar, 000015: the tar file is broken from here on"):
        open_data(folder, **options)
    data = open_data(folder, skip_bad=True, **options)
    assert [number_of(data.train[i]) for i in range(len(data.train))] == [*range(15), *range(23, 30)]


@pytest.mark.parametrize("name", ["000000.png", "000000.cls"])
def test_a_member_that_claims_more_than_the_file_is_named(folder, options, name):
    """Its bytes are not read: they would take the memory that the header asks for."""
    path = write_tar(folder / "train-000.tar", list(samples(range(10))))
    content = bytearray(path.read_bytes())
    start = content.index(name.encode())
    content[start + 124 : start + 136] = b"77777777777\0"  # 8 GiB
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000\.tar, 000000: the tar file"):
        open_data(folder, **options)


def test_keys_need_not_be_ascii(tmp_path, options):
    files = [(f"{'é' * 400}{name}", content) for name, content in samples(range(9))]
    write_tar(tmp_path / "set" / "a.tar", files)
    data = open_data(tmp_path / "set", val_split=0.4, **options)
    assert "a.tar, éé" in data.train.name(0)
    assert len(data.train.name(0)) < 400 + len(str(tmp_path))


def test_numbers_of_many_digits_are_labels(tmp_path, options):
    """Python refuses to convert them."""
    labels = ["9" * 5000, "3"]
    files = [(f"{i}.png", encoded(i)) for i in range(8)] + [
        (f"{i}.cls", labels[i % 2].encode()) for i in range(8)
    ]
    write_tar(tmp_path / "set" / "a.tar", sorted(files))
    assert open_data(tmp_path / "set", val_split=0.5, **options).classes == ("3", "9" * 5000)
    (tmp_path / "set" / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match="labels must be numbers below"):
        open_data(tmp_path / "set", val_split=0.5, **options)


def test_files_that_belong_to_no_sample_are_left_out(tmp_path, options):
    """A README, and what macOS adds for each file."""
    files = [("README", b"x"), (".hidden/.x", b"x")]
    for name, content in samples(range(8)):
        files += [(f"./._{name}", b"mac"), (f"./{name}", content)]
    write_tar(tmp_path / "set" / "a.tar", files)
    write_tar(tmp_path / "set" / "._a.tar", files)
    data = open_data(tmp_path / "set", val_split=0.5, **options)
    numbers = [number_of(part[i]) for part in (data.train, data.evaluation) for i in range(len(part))]
    assert sorted(numbers) == list(range(8))


def test_the_image_of_the_shortest_suffix_is_taken(tmp_path, options):
    files = []
    for i, (name, content) in enumerate(samples(range(8))):
        files += [(name.replace(".png", ".depth.png"), encoded(99))] * (i % 2 == 0) + [(name, content)]
    write_tar(tmp_path / "set" / "a.tar", files)
    data = open_data(tmp_path / "set", val_split=0.5, **options)
    assert all(number_of(data.train[i]) < 8 for i in range(len(data.train)))


def test_a_damaged_header_is_not_the_end(folder, options):
    """Python's reader stops there without an error."""
    path = folder / "train-001.tar"
    content = bytearray(path.read_bytes())
    start = content.index(b"000015.png")
    content[start + 100 : start + 300] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-001\.tar, 000014: the tar file is broken from here on"):
        open_data(folder, **options)
    data = open_data(folder, skip_bad=True, **options)
    assert [number_of(data.train[i]) for i in range(len(data.train))] == [*range(14), *range(23, 30)]


def test_names_of_classes_can_be_equal_and_begin_with_a_mark(folder, options):
    """ImageNet has two classes "crane"; some editors begin a file with a byte-order mark."""
    (folder / "classes.txt").write_text("crane\nb\ncrane\n", encoding="utf-8-sig")
    assert open_data(folder, **options).classes == ("crane", "b", "crane (2)")


def test_the_query_of_an_address_is_no_suffix(served, options):
    address, _ = served
    data = open_data(f"{address}/train-000.tar?download=true", "shards", val_split=0.5, **options)
    assert len(data.train) + len(data.evaluation) == 10


def test_a_file_is_no_pattern(tmp_path):
    path = write_tar(tmp_path / "[a]" / "{1,2}.tar", [])
    assert find_shards(str(path)) == [str(path)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"(the shard .*train-000\.tar is empty|cannot read the shard .*train-000\.tar)"),
        (bytes(10240), r"the shard .*train-000\.tar is empty"),
        (b"<html>404</html>" * 100, r"cannot read the shard .*train-000\.tar: the tar file is broken"),
    ],
)
def test_an_empty_shard_and_another_file_are_named(folder, options, content, message):
    (folder / "train-000.tar").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_data(folder, **options)
    assert "\n" not in str(caught.value)
    data = open_data(folder, skip_bad=True, **options)
    assert len(data.train) == 20
    assert len(data.skipped) == 1


def test_what_is_not_there_is_named(folder, options, served):
    with pytest.raises(ValueError, match=r"there are no shards .*nothing-\*\.tar"):
        open_data(folder / "nothing-*.tar", **options)
    with pytest.raises(ValueError, match=r"cannot read the shard http://.*/nothing\.tar: 404"):
        open_data(Path_of(served[0] + "/nothing.tar"), val_split=0.1, **options)
    with pytest.raises(ValueError, match=r"cannot read the shard http://127.0.0.1:1/a\.tar: .*connect"):
        open_data(Path_of("http://127.0.0.1:1/a.tar"), val_split=0.1, **options)
    with pytest.raises(ValueError, match=r"has no labelled val or test split"):
        open_data(folder / "train-000.tar", **options)
    with pytest.raises(ValueError, match=r"has no image of the train split"):
        open_data(folder / "val-000.tar", **options)


# -- addresses --------------------------------------------------------------------------------------


def Path_of(address):
    """An address as the command line hands it on: a path, which joins slashes."""
    from pathlib import Path

    path = Path(address)
    assert "//" not in str(path)
    return path


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/t-{08..11}.tar", [f"https://h/t-{i}.tar" for i in ("08", "09", "10", "11")]),
        (
            "s3://b/{train,val}-{0..1}.tar",
            [f"s3://b/{s}-{i}.tar" for s in ("train", "val") for i in (0, 1)],
        ),
        ("https://h/one.tar", ["https://h/one.tar"]),
        ("nowhere/{a,b}.tar", []),
    ],
)
def test_patterns_are_expanded(address, expected):
    assert find_shards(address) == expected


def test_patterns_are_those_of_the_library():
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("https://h/t-{000..012}.tar", "https://h/{a,b}/{7..11}-{x,y}.tar"):
        assert find_shards(pattern) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a/train-0001.tar", "train"), ("https://h/val/0001.tar", "val"), ("a/validation_3.tar.gz", "val"),
        ("test.tar", "test"), ("a/0001.tar", "train"), ("val/other-1.tar", "val"),
        ("a/imagenet.tar", "train"), ("test/train-1.tar", "train"),
        ("imagenet1k-validation-00.tar", "val"), ("my_set_test.tgz", "test"),
        ("my-test-set/00.tar", "train"),
    ],
)  # fmt: skip
def test_the_split_is_in_the_name(name, split):
    assert split_of(name) == split
