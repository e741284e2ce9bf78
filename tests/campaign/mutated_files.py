"""Files of every format of labelled images, and random changes of them."""

import csv
import io
import json
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from campaign.mutations import mutated_bytes
from recursivemix.data.formats.pack import HEADER, header, index_bytes
from recursivemix.data.pack import write_pack
from recursivemix.data.settings import ImageSettings
from samples import write_images

MOST_MEMORY = 2**30
"""Bytes that reading a data set may add to the memory of the process."""
NAMES = ("a", "b")
IMAGE_KINDS = {"jpeg": "jpg", "png": "png", "webp": "webp", "gif": "png", "bmp": "bmp", "tiff": "tif"}
SIDES = (0, 1, 2, 255, 9400, 20_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1)
TEXTS = ("", "0", "-1", "nan", "1e400", "9" * 5000, "x" * 300, "x" * 70_000, "\x00", "\ud800", "a\rb", '"',
         "../../x.png", "/etc/passwd", "train", "test", ";", "a;b", "=cmd()", "\u202egpj", "é" * 200,
         "None", "a\nb", "/dev/null", ".")  # fmt: skip


# -- images ----------------------------------------------------------------------------------------


def encoded(kind, mode="RGB", size=(40, 30), **options):
    """An image as a file's bytes; none if the format has no such mode."""
    file = io.BytesIO()
    image = Image.effect_noise(size, 60) if max(size) < 100 else Image.new("L", size, 7)
    if mode in ("I;16", "I", "F"):
        image = image.convert("I") if mode != "F" else image
    try:
        image.convert(mode).save(file, kind, **options)
    except (OSError, ValueError, KeyError, RuntimeError):  # the format has no such mode or frames
        return b""
    return file.getvalue()


def with_sides(content, kind, draw):
    """Replace width and height in the header; PNG's checksum fits."""
    content = bytearray(content)
    width, height = draw.of(SIDES), draw.of(SIDES)
    place, form = {"png": (16, ">II"), "bmp": (18, "<ii"), "gif": (6, "<HH"), "webp": (26, "<HH")}.get(
        kind, (0, "")
    )
    if kind == "jpeg":
        place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2")) + 5
        form = ">HH"
    if kind == "tiff":  # the values of the first entries of the directory
        place = struct.unpack_from("<I", content, 4)[0] + 2 + 8
        struct.pack_into("<I", content, place, width)
        struct.pack_into("<I", content, place + 12, height)
        return bytes(content)
    limit = {"H": 2**16 - 1, "i": 2**31 - 1, "I": 2**32 - 1}[form[1]]
    struct.pack_into(form, content, place, min(width, limit), min(height, limit))
    if kind == "png":
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


def mutated_image(content, kind, draw, largest):
    """Other bytes, sides, modes, formats, frames; an image of the largest number of pixels."""
    if draw.chance(0.55):
        return mutated_bytes(content, draw)
    if draw.chance(0.4):
        changed = with_sides(content, kind, draw)
        return mutated_bytes(changed, draw) if draw.chance(0.3) else changed
    mode = draw.of(("1", "L", "P", "RGB", "RGBA", "I", "I;16", "LA", "CMYK", "F", "LAB", "HSV", "YCbCr"))
    other = draw.of((kind, kind, "jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm", "ico", "pcx", "tga"))
    if draw.chance(0.015):
        side = int(largest**0.5)
        return encoded(kind, mode, (side, side))
    if draw.chance(0.2) and kind in ("gif", "webp", "tiff", "png"):
        frames = [Image.new("RGB", (draw.of((40, 1, 300)), 30), (i, 0, 9)) for i in range(3)]
        changed = encoded(kind, save_all=True, append_images=frames)
    else:
        changed = encoded(other, mode, draw.of(((40, 30), (1, 1), (1, 3000), (3000, 1), (33, 500))))
    return mutated_bytes(changed, draw) if draw.chance(0.3) else changed


def write_image_folder(root, kind):
    """Files of a format in two classes and two splits; return the settings and the file to attack."""
    for split, count in (("train", 2), ("val", 1)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.{IMAGE_KINDS[kind]}").write_bytes(encoded(kind))
    return {"data": root}, root / "train" / "b" / f"1.{IMAGE_KINDS[kind]}"


# -- tables ----------------------------------------------------------------------------------------

ROWS = [("image", "label", "split"), *((f"{i}.png", NAMES[i % 2], "train" if i < 6 else "val")
        for i in range(10))]  # fmt: skip


def write_table(root, kind):
    """A table of ten images."""
    write_images(root, 10)
    file = root / f"table.{kind}"
    if kind == "csv":
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows(ROWS)
    else:
        columns = dict(zip(ROWS[0], zip(*ROWS[1:], strict=True), strict=True))
        columns["image"] = [(root / name).read_bytes() for name in columns["image"]]
        parquet.write_table(pa.table({name: list(cells) for name, cells in columns.items()}), file)
    return {"table": file}, file


def mutated_csv(content, draw):
    """Other cells, rows and headers; or other bytes."""
    if draw.chance(0.4):
        return mutated_bytes(content, draw)
    rows = [list(row) for row in ROWS]
    for _ in range(draw.of((1, 1, 2, 5))):
        row = draw.of(rows)
        row[draw.below(3)] = draw.of(TEXTS)
        if draw.chance(0.1):
            row += [draw.of(TEXTS)]
    if draw.chance(0.1):
        rows = rows * draw.of((2, 20))
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def odd_cells(draw):
    """Values of a column, of another type, or some of them."""
    bad = b"\xff\xfe\x00"
    kinds = (
        [draw.of(TEXTS).replace("\ud800", "?") for _ in range(10)], [None] * 10, list(range(10)),
        [float("nan")] * 10, [bad] * 10, [[1, None]] * 10, [{"bytes": bad, "path": "x"}] * 10,
        [{"bytes": None, "path": "0.png"}] * 10, [{"bytes": 3, "path": 4}] * 10, [{"x": [{"y": 1}]}] * 10,
        [True, None] * 5, [10**15] * 10, [["a", "b"]] * 10, ["0.png", None] * 5, [b""] * 10,
        [encoded("png")] * 10, ["train", "val"] * 5,
    )  # fmt: skip
    cells = draw.of(kinds)
    if cells[0] == bad and draw.chance(0.5):  # text that is no UTF-8
        return pa.array(cells, pa.binary()).view(pa.string())
    if isinstance(cells[0], int) and draw.chance(0.3):
        return pa.array(cells).cast(pa.int64()).view(pa.timestamp("ns"))
    if isinstance(cells[0], str) and draw.chance(0.5):
        return pa.array(cells).dictionary_encode()
    return pa.array(cells)


def mutated_parquet(content, draw):
    """Columns of other types and values; or other bytes."""
    if draw.chance(0.5):
        return mutated_bytes(content, draw)
    table = parquet.read_table(io.BytesIO(content))
    for _ in range(draw.of((1, 1, 2))):
        place = draw.below(3)
        if draw.chance(0.1):
            table = table.append_column(table.column_names[place], table[place])
        else:
            table = table.set_column(place, table.column_names[place], odd_cells(draw))
    file = io.BytesIO()
    parquet.write_table(table.slice(0, draw.of((10, 10, 10, 0, 1))), file)
    return file.getvalue()


# -- shards and packs --------------------------------------------------------------------------------


TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
         tarfile.GNUTYPE_SPARSE, b"x", b"L", b"?")  # fmt: skip
HEADERS = ("size", "GNU.sparse.map", "GNU.sparse.major", "path", "mtime", "hdrcharset")
SIZES = (b"77777777777\0", b"00000000000\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"00000000777\0",
         b"\x80" + b"\0" * 5 + b"\x01" + b"\0" * 5, b"xxxxxxxxxxxx")  # fmt: skip
"""Sizes of members, as their headers hold them."""
FIELDS = (
    "[" * 200_000, '{"label": null}', '{"label": {}}', '{"label": 1e999}', "[]", "3", '{"label": [[1]]}',
    '{"label": "' + "9" * 5000 + '"}', "{", '{"label": -1}', '{"label": ' + "9" * 5000 + "}",
    '{"label": [null]}', '{"label": "\\ud800"}',
)  # fmt: skip
"""Contents of a JSON member."""


def samples(names=NAMES):
    """Members of a shard: images with their labels."""
    for i in range(6):
        yield f"{i:03}.png", encoded("png")
        yield f"{i:03}.cls", names[i % 2].encode()


def as_tar(members, draw=None):
    """A tar file; with odd headers by chance."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if draw is not None and draw.chance(0.1):
                entry.type = draw.of(TYPES)
                entry.linkname = draw.of(("000.png", "/etc/passwd", "", "x" * 300))
            if draw is not None and draw.chance(0.05):
                entry.pax_headers = {draw.of(HEADERS): draw.of(("-1", "9" * 30, "x", "1,2"))}
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def write_shards(root, kind):
    """A shard of each split."""
    for split in ("train", "val"):
        (root / f"{split}-0.tar").write_bytes(as_tar(samples()))
    return {"data": root, "shard_cache": root / "cache"}, root / "train-0.tar"


def mutated_tar(content, draw):
    """Other labels, names, sizes and types of members; or other bytes."""
    action = draw.below(4)
    if action == 0:
        return mutated_bytes(content, draw)
    if action == 1:  # another size in a header, whose checksum fits
        content = bytearray(content)
        place = 1024 * draw.below(8)
        for start in range(place, len(content) - 512, 512):
            if content[start + 257 : start + 262] == b"ustar":
                break
        else:
            return bytes(content)
        size = draw.of(SIZES)
        content[start + 124 : start + 136] = size
        content[start + 148 : start + 156] = b" " * 8
        content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
        return bytes(content)
    members = list(samples())
    for _ in range(draw.of((1, 1, 3))):
        place = draw.below(len(members))
        name, content = members[place]
        odd = draw.of(TEXTS).encode("utf-8", "surrogatepass")
        fields = draw.of(FIELDS)
        members[place] = draw.of(
            ((name, odd), (draw.of(TEXTS[5:]).replace("\ud800", "?") + ".png", content),
             (f"{place // 2:03}.json", fields.encode()), (name + ".png", content), ("." + name, b""),
             (f"{place // 2:03}.cls", draw.bytes(9)), (name, content * 2),
             (name, mutated_bytes(content, draw)))
        )  # fmt: skip
    if draw.chance(0.2):
        del members[draw.below(len(members))]
    return as_tar(members, draw)


def write_one_pack(root, kind):
    """A pack of the images of a folder."""
    settings, _ = write_image_folder(root / "images", "png")
    write_pack(ImageSettings(**settings), root / "one.pack", progress=False)
    return {"data": root / "one.pack"}, root / "one.pack"


def mutated_pack(content, draw):
    """Another index under checksums that fit; or other bytes."""
    if draw.chance(0.3):
        return mutated_bytes(content, draw)
    offset = struct.unpack_from("<Q", content, 16)[0]
    with np.load(io.BytesIO(content[offset:])) as archive:
        arrays = {name: archive[name] for name in archive.files}
    facts = json.loads(arrays.pop("facts").tobytes())
    count = len(arrays["labels"])
    for _ in range(draw.of((1, 1, 2))):
        if draw.chance(0.5):
            odd = (None, -1, 0, 3, 1e300, float("nan"), "x", [], {}, ["a"], {"train": count},
                   {"val": 2, "train": count - 2}, {"train": count + 1, "val": -1}, {"train": 2.5},
                   {"train": -1, "x": count + 1}, [0, 0, 0], ["a", "a"], [[1]] * 3, [10**400] * 3,
                   {"train": 0, "val": count}, ["\ud800", "x" * 5000], [True] * 3)  # fmt: skip
            facts[draw.of(list(facts))] = draw.of(odd)
            continue
        name = draw.of(list(arrays))
        array = np.atleast_1d(arrays[name])
        arrays[name] = draw.of(
            (array[:-1], array[:0], array[None, :], array[:1], array[::2],
             np.array(["\ud800"] * count), np.array(["a"] * count), np.array(3),
             np.zeros((count, 2), np.uint8), array[::-1])
        ) if draw.chance(0.5) or array.dtype.kind not in "iu" else draw.of(
            (array.astype(float), -array.astype(np.int64), array.astype(np.int64) + 2**62,
             np.full_like(array, np.iinfo(array.dtype).max), np.full(array.shape, np.nan),
             array.astype(complex), array.astype(bool), array * 0)
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = index_bytes(arrays, facts)
    images = content[HEADER:offset]
    if draw.chance(0.2):
        images = mutated_bytes(images, draw)[: len(images)].ljust(len(images), b"\0")
    return header(offset + len(index), offset, index) + images + index


# -- all of them ----------------------------------------------------------------------------------

WRITERS = dict.fromkeys(IMAGE_KINDS, write_image_folder) | {
    "csv": write_table, "parquet": write_table, "tar": write_shards, "pack": write_one_pack,
}  # fmt: skip
MUTATIONS = {"csv": mutated_csv, "parquet": mutated_parquet, "tar": mutated_tar, "pack": mutated_pack}
KINDS = tuple(WRITERS)
