"""Packs: the same images as their source, for any number of processes, and never half of them."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recursivemix.cli import main
from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import TrainingBatches
from recursivemix.data.crop import evaluation_crop
from recursivemix.data.decode import UnreadableImageError
from recursivemix.data.formats.pack import FIELDS, HEADER, header, index_bytes, read_index
from recursivemix.data.images import cropped
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder
from recursivemix.data.pack import sole_writer, write_pack
from recursivemix.data.settings import AugmentationSettings, ImageSettings
from recursivemix.data.splits import network_size
from samples import FAST, write_images


@pytest.fixture
def photographs(tmp_path):
    """JPEG files of 60x48 pixels in two classes, without a validation split."""
    root = tmp_path / "photographs"
    for hue, name in enumerate(("red", "green")):
        write_images(root / name, 5, hue=hue, size=(60, 48))
        for file in sorted((root / name).iterdir()):
            Image.open(file).save(file.with_suffix(".jpg"), quality=95)
            file.unlink()
    return root


def packed(source: Path, out: Path, **options: object) -> Path:
    write_pack(ImageSettings(data=source), out, progress=False, **options)
    return out


def equal_images(first: object, second: object) -> bool:
    return all(torch.equal(first[i], second[i]) for i in range(len(first)))


@pytest.mark.parametrize("raw", [False, True])
def test_images_keep_their_pixels_labels_and_splits(image_root, tmp_path, raw):
    """PNG stored raw, and JPEG as it is."""
    source = open_data(image_root)
    data = open_data(packed(image_root, tmp_path / "a.pack", raw=raw))
    assert (data.classes, data.split, data.image_size) == (source.classes, source.split, source.image_size)
    assert (data.mean, data.std, data.flip) == (source.mean, source.std, source.flip)
    for part, twin in ((data.train, source.train), (data.evaluation, source.evaluation)):
        assert torch.equal(part.labels, twin.labels)
        assert [part.name(i) for i in range(len(part))] == [
            f"{tmp_path / 'a.pack'}, {twin.name(i)}" for i in range(len(twin))
        ]
        assert equal_images(part, twin) is raw
        for i in range(len(part)):
            assert (part[i].float() - twin[i].float()).abs().mean() < 20


def test_jpeg_files_that_keep_their_size_are_copied(photographs, tmp_path):
    source = open_data(photographs, val_split=0.4, seed=3)
    data = open_data(packed(photographs, tmp_path / "a.pack", size=48, raw=False), val_split=0.4, seed=3)
    assert equal_images(data.train, source.train)
    assert equal_images(data.evaluation, source.evaluation)  # the same images are held out


def test_a_class_of_one_image_is_packed(photographs, tmp_path):
    """It could not be held out, but nothing is."""
    for i in range(1, 5):
        (photographs / "red" / f"{i}.jpg").unlink()
    written = write_pack(ImageSettings(data=photographs), tmp_path / "a.pack", progress=False)
    assert written.images == 6
    assert read_index(tmp_path / "a.pack").splits == {"train": 6}


@pytest.mark.parametrize("raw", [False, True])
def test_larger_images_are_reduced_to_the_shorter_side(photographs, tmp_path, raw):
    data = open_data(packed(photographs, tmp_path / "a.pack", size=20, raw=raw), val_split=0.4)
    source = open_data(photographs, val_split=0.4)
    assert {data.train.size(i) for i in range(len(data.train))} == {(20, 25)}
    assert network_size(data.train) == 20
    for i in range(len(data.train)):
        with source.train.open(i) as image:
            twin = np.asarray(image.resize((25, 20), Image.Resampling.BICUBIC)).astype(float)
        found = data.train[i].permute(1, 2, 0).numpy()
        assert np.abs(found - twin).mean() < (2 if raw else 12)
        crop = cropped(data.train, i, evaluation_crop(16))
        assert torch.equal(crop, evaluation_crop(16)((20, 25)).apply(data.train[i]))


def test_sets_that_are_held_in_memory_keep_their_colour_statistics(tmp_path):
    source = open_data()
    settings = ImageSettings()
    write_pack(settings, tmp_path / "digits.pack", progress=False)
    file = tmp_path / "digits.pack"
    index = read_index(file)
    assert (index.mean, index.std, index.flip) == (source.mean, source.std, False)
    data = open_data(file)
    assert data.split == source.split
    assert equal_images(data.train, source.train)
    assert equal_images(data.evaluation, source.evaluation)


def test_several_labels_are_kept(tmp_path):
    write_images(tmp_path / "images", 6)
    lines = [f"images/{i}.png,{label}" for i, label in enumerate(("a;b", "a", "b", "", "b;a", "a"))]
    (tmp_path / "table.csv").write_text("image,label\n" + "\n".join(lines) + "\n")
    write_pack(ImageSettings(table=tmp_path / "table.csv"), tmp_path / "a.pack", progress=False)
    data = open_data(tmp_path / "a.pack", val_split=0.4)
    assert data.multi_label
    labels = torch.cat([data.train.labels, data.evaluation.labels])
    names = [part.name(i) for part in (data.train, data.evaluation) for i in range(len(part))]
    found = {
        re.findall(r"(\d)\.png", name)[0]: row.tolist() for name, row in zip(names, labels, strict=True)
    }
    assert found == {"0": [1, 1], "1": [1, 0], "2": [0, 1], "3": [0, 0], "4": [1, 1], "5": [1, 0]}


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_processes_read_the_same(photographs, tmp_path, workers):
    data = open_data(packed(photographs, tmp_path / "a.pack", raw=True), val_split=0.4, image_size=24)

    def batches(count: int) -> list:
        order, device = TrainingOrder(len(data.train), 4, 3), torch.device("cpu")
        settings = augmentation_of(data, AugmentationSettings(crop="resized"))
        return list(
            TrainingBatches(
                data.train, order, settings, lambda: 0, device=device, hold=False, workers=count
            )
        )

    data.train[0]  # mapped before the processes start
    for one, other in zip(batches(0), batches(workers), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c[:-1], "bytes instead of"),
        (lambda c: c + b"more", "bytes instead of"),
        (lambda c: c[: len(c) // 2], "bytes instead of"),
        (lambda c: c[:20], "its header is damaged"),
        (lambda c: damaged(c, 12), "its header is damaged"),
        (lambda c: damaged(c, len(c) - 30), "its index is damaged"),
        (lambda c: bytes(len(c)), "it does not begin like one"),
        (lambda c: b"", "it does not begin like one"),
    ],
)
def test_a_part_of_a_pack_is_refused_in_one_line(image_root, tmp_path, spoil, message):
    file = packed(image_root, tmp_path / "a.pack")
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        open_data(file, "pack")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{file} is not a whole pack: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[0, 5]] * 3)}, "outside the file"),
        ({"positions": np.array([[HEADER, 10**9]] * 3)}, "outside the file"),
        ({"positions": np.array([[HEADER, -1]] * 3)}, "outside the file"),
        ({"labels": np.array([0, 1, 2])}, "labels have no classes"),
        ({"labels": np.array([0, 1, -1])}, "labels have no classes"),
        ({"labels": np.array([0, 1])}, "different lengths"),
        ({"names": np.array([{}, {}, {}], dtype=object)}, "not a whole pack"),
        ({"positions": np.array([[2**62, 2**62]] * 3)}, "outside the file"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, "neither classes nor marks"),
        ({"labels": np.full((3, 2), 3, np.uint8)}, "neither 0 nor 1"),
        ({"splits": {"train": 4, "val": -1}}, "different lengths"),
        ({"splits": {"train": 0, "val": 3}}, "different lengths"),
        ({"mean": [float("nan")] * 3}, "three finite numbers"),
        ({"std": [1, 1, 0]}, "std must be above 0"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path, change, message):
    """With right checksums: another program may have written it."""
    arrays = {
        "positions": np.array([[HEADER, 5]] * 3),
        "checksums": np.zeros(3, np.uint32),
        "labels": np.array([0, 1, 1]),
        "names": np.array([b"a", b"b", b"c"]),
    }
    facts = {"classes": ["x", "y"], "splits": {"train": 3}, "mean": [0.5] * 3, "std": [1] * 3, "flip": True}
    index = index_bytes(
        *({name: change.get(name, value) for name, value in part.items()} for part in (arrays, facts))
    )
    file = tmp_path / "a.pack"
    start = HEADER + 5
    file.write_bytes(header(start + len(index), start, index) + b"12345" + index)
    with pytest.raises(ValueError, match=message):
        open_data(file, val_split=0.5)


def test_a_damaged_image_is_named_and_can_be_left_out(image_root, tmp_path):
    file = packed(image_root, tmp_path / "a.pack")
    content = file.read_bytes()
    index = read_index(file)
    file.write_bytes(damaged(content, int(index.positions[1, 0]) + 50))
    data = open_data(file)
    with pytest.raises(UnreadableImageError, match=r"1\.png: its bytes in the pack are damaged; pack the"):
        data.train[1]
    data.train[0]
    assert len(open_data(file, skip_bad=True).skipped) == 1


def test_a_broken_image_leaves_no_file(image_root, tmp_path):
    (image_root / "train" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="unknown image format"):
        packed(image_root, tmp_path / "out" / "a.pack")
    assert not list((tmp_path / "out").glob("*"))
    result = write_pack(ImageSettings(data=image_root, skip_bad=True), tmp_path / "a.pack", progress=False)
    assert len(result.skipped) == 1
    assert result.size == os.path.getsize(tmp_path / "a.pack")
    assert len(open_data(tmp_path / "a.pack").train) == result.images - len(
        open_data(tmp_path / "a.pack").evaluation
    )


def test_file_names_of_other_encodings_are_kept(image_root, tmp_path):
    file = image_root / "train" / "red" / "0.png"
    file.rename(os.fsdecode(os.fsencode(file.parent) + b"/\xe9.png"))
    data = open_data(packed(image_root, tmp_path / "a.pack"))
    assert any(data.train.name(i).endswith("\\udce9.png") for i in range(len(data.train)))


def test_the_header_is_written_last(image_root, tmp_path, monkeypatch):
    """A writer that is killed leaves a file of zeros under another name."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        packed(image_root, tmp_path / "a.pack")
    assert not (tmp_path / "a.pack").exists()


def test_a_pack_has_one_writer(image_root, tmp_path):
    """Two that write into one temporary file would rename a mixture of both."""
    out = tmp_path / "a.pack"
    with sole_writer(out) as file:
        with pytest.raises(ValueError, match=r"--out .*a\.pack is being written by another process"):
            packed(image_root, out)
        file.write(b"first")
    assert out.read_bytes() == b"first"
    assert [path.name for path in tmp_path.glob(".*")] == []
    (tmp_path / ".b.pack.part").write_bytes(bytes(10**6))  # of a writer that was killed
    assert read_index(packed(image_root, tmp_path / "b.pack")).classes == ("blue", "green", "red")


def test_the_header_has_its_layout():
    start = header(100, 60, b"i" * 40)
    assert len(start) == HEADER
    assert FIELDS.unpack(start[:-4]) == (b"rmpack1\n", 100, 60, 40, zlib.crc32(b"i" * 40))
    assert struct.unpack("<I", start[-4:]) == (zlib.crc32(start[:-4]),)


@pytest.mark.slow
def test_fit_trains_from_a_pack_as_from_the_folder(image_root, tmp_path, capsys):
    file = tmp_path / "a.pack"
    assert main(["pack", "--data", str(image_root), "--out", str(file)]) == 0
    assert "images" in capsys.readouterr().out
    assert main(["pack", "--data", str(image_root), "--out", str(file)]) == 2
    assert "exists: choose another name" in capsys.readouterr().err
    for name, source in (("folder", image_root), ("pack", file)):
        assert main(["fit", "--data", str(source), "--out", str(tmp_path / name), *FAST]) == 0
    first, second = ((tmp_path / n / "metrics.csv").read_text().splitlines() for n in ("folder", "pack"))
    assert [line.split(",")[:6] for line in first] == [line.split(",")[:6] for line in second]
    checkpoint = tmp_path / "pack" / "checkpoints" / "last.ckpt"
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--data", str(file), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--size", "0"], "--size must be at least 1, got 0"),
        (["--quality", "0"], "--quality must be in 1..100, got 0"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(image_root, tmp_path, capsys, option, message):
    assert main(["pack", "--data", str(image_root), "--out", str(tmp_path / "a"), *option]) == 2
    assert message in capsys.readouterr().err


def test_a_pack_needs_no_pillow_for_raw_images(photographs, tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(content, "PPM")
    assert content.getvalue().startswith(b"P6\n3 2\n255\n")  # what the reader takes as raw
