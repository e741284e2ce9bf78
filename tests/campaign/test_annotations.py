"""Broken and hostile annotations: read, refused in one line that names the file, or left out; nothing else.

Valid data sets in the layouts of COCO, VOC and ADE20K are mutated at random. A failure names the number of
its attack: ``CAMPAIGN_SEED=<number> CAMPAIGN_TRIES=1`` repeats it alone.
"""

import copy
import json
import resource

import pytest
import torch
from PIL import Image

from campaign.decisions import Decisions
from campaign.mutations import mutated_bytes
from recursivemix.data.annotated import IGNORE
from recursivemix.data.formats.coco import annotation_dict
from recursivemix.data.formats.coco_masks import as_run_lengths
from recursivemix.data.open_annotated import open_detection, open_segmentation

SIZE = (30, 40)  # H, W
GROWTH = 256 * 2**20
"""Bytes by which reading small broken files may raise the peak memory of the process."""


def nested(depth):
    """Lists in lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = [
    None, True, False, 0, -1, 1, 3.7, -0.0, 1e-300, 1e39, 1e300, float("nan"), float("inf"), -float("inf"),
    2**31, 2**63, 10**30, 10**400, -(10**400), "", "x", "1", "\x00", "\u202egpj.exe", "\ud800",
    "a\nb\rc\x1b[2J", "../../etc/passwd", "x" * 5000, "]]>", "&lol;", "=cmd()", "<script>",
    [], {}, [1], {"a": 1}, [None] * 4, [[]], nested(50), nested(400),
    [[1e9, 1, 2, 3, 4, 5]], [[1e300] * 6], [["a"] * 6], [[float("inf")] * 8], [[None] * 6], [[True] * 6],
    [[10**400] * 6], {"size": [30, 40], "counts": "0"}, {"size": [30, 40], "counts": "oooooooo"},
    {"size": [30, 40], "counts": [-1, 1201]}, {"size": [30, 40], "counts": ["a"]},
    {"size": [30, 40], "counts": [[1]]}, {"size": [30.0, 40.0], "counts": [600, 600]},
    {"size": [30, 40], "counts": [2**70]}, {"size": 7, "counts": {}},
    {"size": [10**9, 10**9], "counts": [10**18]}, {"size": [30, 40], "counts": "\u1234\ud800"},
]  # fmt: skip
"""Values put in the place of good ones."""
TEXTS = [str(value) for value in HOSTILE if not isinstance(value, list | dict)]


def good_coco():
    """Polygons, a list of run lengths and compressed ones, a crowd, an image without objects."""
    images = [{"id": 5 + i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(3)]
    segmentations = [
        [[2, 3, 12, 3, 12, 15, 2, 15], [20.5, 3, 25, 3, 25, 9]],
        {"size": [30, 40], "counts": [0, 2, 28, 2, 28, 2, 1138]},
        as_run_lengths(torch.arange(1200).view(SIZE) % 7 == 0),
    ]
    annotations = [
        {
            "id": i + 1, "image_id": 5 + i % 2, "category_id": 4 + 4 * (i % 2), "bbox": [2, 3, 10.5, 12],
            "area": 100.0, "iscrowd": int(i == 1), "segmentation": segmentation,
        }
        for i, segmentation in enumerate(segmentations)
    ]  # fmt: skip
    categories = [{"id": 8, "name": "dog"}, {"id": 4, "name": "cat", "supercategory": "animal"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def good_xml(names):
    """An annotation in VOC's layout with objects of these classes."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{i % 2}</difficult><bndbox><xmin>{1 + i}</xmin>"
        f"<ymin>2</ymin><xmax>{20 + i}</xmax><ymax>25</ymax></bndbox></object>"
        for i, name in enumerate(names)
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f'<?xml version="1.0"?><annotation><filename>a.jpg</filename>{size}{objects}</annotation>'


def label_map(i):
    """A palette image of class 0 or 1, with a pixel to ignore."""
    image = Image.new("P", (40, 30), i % 2)
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.putpixel((3, 2), IGNORE)
    return image


def write_coco(root):
    """A data set of boxes and masks."""
    for split in ("train", "val"):
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(good_coco()))
        (root / split).mkdir()
        for i in range(3):
            Image.new("RGB", (40, 30), (9, 90, i)).save(root / split / f"{i}.png")


def write_voc(root):
    """A data set of boxes and label maps."""
    for name in (
        "Annotations",
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (root / name).mkdir(parents=True)
    for i, names in enumerate((["dog", "cat"], [], ["cat"])):
        (root / "Annotations" / f"{i}.xml").write_text(good_xml(names))
        Image.new("RGB", (40, 30), (i, 0, 0)).save(root / "JPEGImages" / f"{i}.jpg")
        label_map(i).save(root / "SegmentationClass" / f"{i}.png")
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind / "train.txt").write_text("0\n1\n")
        (root / "ImageSets" / kind / "val.txt").write_text("2\n")


def write_ade20k(root):
    """A data set of label maps."""
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 30), (9, 9, 9)).save(root / "images" / split / f"{i}.jpg")
            label_map(i).save(root / "annotations" / split / f"{i}.png")
    (root / "classes.txt").write_text("sky\nroad\n")


# -- attacks ---------------------------------------------------------------------------------------


def paths_of(value, path=()):
    """Every place in a document."""
    yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in items:
        yield from paths_of(part, (*path, key))


def mutated_json(content, draw):
    """Other values, missing and doubled entries; or other bytes."""
    if draw.chance(0.25):
        return mutated_bytes(content, draw)
    document = json.loads(content)
    for _ in range(draw.of((1, 1, 2, 5))):
        path = draw.of([path for path in paths_of(document) if path])
        place = document
        for key in path[:-1]:
            place = place[key]
        if draw.chance(0.15):
            del place[path[-1]]
        elif draw.chance(0.1) and isinstance(place, list):
            place.append(copy.deepcopy(place[path[-1]]))
        else:
            place[path[-1]] = copy.deepcopy(draw.of(HOSTILE))
    return json.dumps(document).encode()


DOCTYPES = (
    '<!DOCTYPE a [<!ENTITY lol "dog">]>',
    '<!DOCTYPE a [<!ENTITY a "dog"><!ENTITY lol "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    '<!DOCTYPE a [<!ENTITY a0 "dogdogdogdog">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    + '<!ENTITY lol "&a11;">]>',
    '<!DOCTYPE a [<!ENTITY lol SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
)
ENCODINGS = ("utf-16", "cp500", "klingon", "utf-7", "big5", "")


def mutated_xml(content, draw):
    """Other texts, missing and doubled elements, entities, encodings; or other bytes."""
    if draw.chance(0.3):
        return mutated_bytes(content, draw)
    text = content.decode()
    for _ in range(draw.of((1, 1, 2, 4))):
        tag = draw.of(("name", "difficult", "xmin", "ymax", "width", "height", "bndbox", "size", "object"))
        start = text.find(f"<{tag}>")
        end = text.find(f"</{tag}>", start)
        if start < 0 or end < 0:
            continue
        inner = draw.of(TEXTS)
        inner = draw.of((inner, inner, "&lol;", "<b>" * 50, f"<![CDATA[{inner}]]>", text[start:end]))
        text = text[: start + len(tag) + 2] + inner + text[end:]
    if draw.chance(0.2):
        text = text.replace("?>", "?>" + draw.of(DOCTYPES)).replace("<name>dog", "<name>&lol;")
    if draw.chance(0.1):
        text = text.replace('version="1.0"', f'version="1.0" encoding="{draw.of(ENCODINGS)}"')
    return text.encode("utf-8", "surrogatepass")


def mutated_text(content, draw):
    """Other lines of a list of names or classes; or other bytes."""
    if draw.chance(0.5):
        return mutated_bytes(content, draw)
    lines = content.decode().splitlines()
    lines[draw.below(len(lines))] = draw.of((*TEXTS, *lines))
    return "\n".join(lines * draw.of((1, 1, 300))).encode("utf-8", "surrogatepass")


def mutated_image(content, draw, folder):
    """An image of another size, mode or format; or other bytes."""
    if draw.chance(0.6):
        return mutated_bytes(content, draw)
    mode = draw.of(("1", "L", "P", "RGB", "RGBA", "I", "I;16", "LA", "CMYK", "F"))
    size = draw.of(((40, 30), (30, 40), (1, 1), (41, 30), (500, 500)))
    kind = draw.of(("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"))
    other = folder / "other"
    try:
        Image.new(mode, size, draw.of((0, 1, 2, 200))).save(other, kind)
    except (OSError, ValueError, TypeError):
        return b""
    return other.read_bytes()


def attack(file, draw, folder):
    """The new content of a file, None to remove it."""
    if draw.chance(0.03):
        return None
    content = file.read_bytes()
    if file.suffix == ".json":
        return mutated_json(content, draw)
    if file.suffix == ".xml":
        return mutated_xml(content, draw)
    if file.suffix == ".txt":
        return mutated_text(content, draw)
    return mutated_image(content, draw, folder)


# -- what must hold --------------------------------------------------------------------------------


def check_objects(objects, size, classes):
    """What is read keeps the promises of `Objects`."""
    count = len(objects.boxes)
    assert objects.boxes.shape == (count, 4)
    assert objects.boxes.isfinite().all()
    limit = torch.tensor([size[1], size[0]] * 2)
    assert ((objects.boxes >= 0) & (objects.boxes <= limit)).all()
    assert (objects.boxes[:, 2:] > objects.boxes[:, :2]).all()
    assert ((objects.labels >= 0) & (objects.labels < classes)).all()
    assert (objects.area.isfinite() & (objects.area >= 0)).all()
    assert objects.masks is None or objects.masks.shape == (count, *size)


def read_all(data):
    """Everything that a run reads."""
    for images in (data.train, data.evaluation):
        for index in range(len(images)):
            image, target = images[index]
            assert image.dtype == torch.uint8
            if isinstance(target, torch.Tensor):
                assert target.shape == image.shape[1:]
                assert ((target < len(data.classes)) | (target == IGNORE)).all()
            else:
                check_objects(target, image.shape[1:], len(data.classes))
    if hasattr(data, "category_ids"):
        annotation_dict(data.evaluation, data)


def outcome(opened, root):
    """Read everything, or be refused in one line that names a file of the data set."""
    try:
        data = opened()
        read_all(data)
    except ValueError as error:  # AnnotationError and UnreadableImageError too
        message = str(error)
        assert message.isprintable(), repr(message)[:300]
        assert len(message) < 1500, message[:300]
        assert root.name in message or message.startswith("--"), message
        return "refused"
    return "left out" if data.skipped else "read"


WAYS = {
    "coco": [lambda root, skip: open_detection(root, "coco", skip_bad=skip),
             lambda root, skip: open_detection(root, "coco", masks=True, skip_bad=skip)],
    "voc": [lambda root, skip: open_detection(root, "voc", skip_bad=skip),
            lambda root, skip: open_segmentation(root, "voc", skip_bad=skip)],
    "ade20k": [lambda root, skip: open_segmentation(root, "ade20k", skip_bad=skip)],
}  # fmt: skip
WRITERS = {"coco": write_coco, "voc": write_voc, "ade20k": write_ade20k}
ATTACKED = {
    "coco": (*("annotations/train.json",) * 6, *("annotations/val.json",) * 3, "train/1.png"),
    "voc": (
        *("Annotations/0.xml",) * 6, "Annotations/2.xml", "JPEGImages/0.jpg", "ImageSets/Main/train.txt",
        "ImageSets/Segmentation/train.txt", "SegmentationClass/0.png", "SegmentationClass/2.png",
    ),
    "ade20k": (
        *("annotations/training/1.png",) * 3, "annotations/validation/0.png", "images/training/0.jpg",
        "classes.txt",
    ),
}  # fmt: skip
"""Files to attack; those that are listed several times are attacked as many times as often."""


@pytest.mark.parametrize("layout", list(WRITERS))
@pytest.mark.filterwarnings("ignore")  # Pillow's, about odd files
def test_broken_annotations(layout, tries, seed, tmp_path, recorded):
    root = tmp_path / layout
    root.mkdir()
    WRITERS[layout](root)
    for way in WAYS[layout]:
        assert outcome(lambda way=way: way(root, False), root) == "read"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = {"read": 0, "refused": 0, "left out": 0}
    for number in range(seed, seed + tries):
        draw = Decisions(number)
        file = root / draw.of(ATTACKED[layout])
        content = file.read_bytes()
        changed = attack(file, draw, tmp_path)
        file.unlink() if changed is None else file.write_bytes(changed)
        for way in WAYS[layout]:
            for skip in (False, True):
                try:
                    seen[outcome(lambda way=way, skip=skip: way(root, skip), root)] += 1
                except BaseException as error:
                    error.add_note(f"attack {number} on {file.name}: {str(changed)[:500]}")
                    raise
        file.write_bytes(content)
    if tries >= 100:
        assert min(seen.values()) > 0, seen  # the attacks reach all three
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert growth < GROWTH, f"{growth / 2**20:.0f} MiB"
    recorded(f"broken {layout} annotations", tries, tries)
