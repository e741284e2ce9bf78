"""Formats: all are found through the registry, and one is added in two files."""

import subprocess
import sys
import tarfile
from typing import get_args

import pytest
import torch

from recursivemix.data import names
from recursivemix.data.annotated import AnnotatedFormat
from recursivemix.data.images import ImageData, ImageFormat, StackedImages
from recursivemix.data.names import DETECTION_FORMATS, IMAGE_FORMATS, SEGMENTATION_FORMATS, load_format
from recursivemix.data.open import open_data
from recursivemix.data.open_annotated import open_detection, open_segmentation
from recursivemix.data.settings import ImageSettings

REGISTRIES = [
    (IMAGE_FORMATS, ImageFormat, names.Source),
    (DETECTION_FORMATS, AnnotatedFormat, names.DetectionSource),
    (SEGMENTATION_FORMATS, AnnotatedFormat, names.SegmentationSource),
]


@pytest.mark.parametrize(("registry", "kind", "option"), REGISTRIES)
def test_every_registered_format_loads_and_is_a_choice(registry, kind, option):
    assert get_args(option) == ("auto", *registry)
    for name in registry:
        assert isinstance(load_format(registry, name), kind)


def test_options_of_formats_are_settings():
    for name in IMAGE_FORMATS:
        image_format = load_format(IMAGE_FORMATS, name)
        fields = ImageSettings.__dataclass_fields__.keys()
        assert image_format.options <= fields
        assert image_format.needs is None or image_format.needs in fields


def test_a_new_format_takes_its_module_and_a_line(monkeypatch, tmp_path):
    """The module of a format that a user adds, and its line in the registry; nothing else changes."""
    blank = StackedImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), "blank")
    module = type(sys)("recursivemix.data.formats.blank")
    module.BLANK = ImageFormat(
        open=lambda settings, seed: ImageData(
            blank, blank, ("a", "b"), settings.image_size or 8, (0.5,) * 3, (0.2,) * 3, True, "val"
        ),
        detect=lambda settings: settings.data is not None and settings.data.suffix == ".blank",
        options=frozenset({"image_size"}),
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(IMAGE_FORMATS, "blank", "blank:BLANK")
    path = tmp_path / "images.blank"
    assert open_data(path).train is blank
    assert open_data(path, "blank", image_size=16).image_size == 16
    with pytest.raises(ValueError, match="--val-split does not apply to --dataset blank"):
        open_data(path, val_split=0.5)


def test_an_option_of_another_format_is_refused(tmp_path, image_root):
    for options in ({"val_split": 0.2}, {"image_size": 64}, {"skip_bad": True}):
        flag = f"--{next(iter(options)).replace('_', '-')}"
        with pytest.raises(ValueError, match=f"{flag} does not apply to --dataset digits"):
            open_data(**options)
    with pytest.raises(ValueError, match="--data does not apply to --dataset digits"):
        open_data(image_root, "digits")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="--dataset cifar10 needs --data"):
        open_data(dataset="cifar10")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere; .*--dataset hf"):
        open_data(tmp_path / "nowhere")
    (tmp_path / "labels.csv").write_text("image,label\na.png,red\n")
    with pytest.raises(ValueError, match=r"labels\.csv is a file of no known format; a table .* --table"):
        open_data(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match=r"--dataset must be auto, .*folder; got 'imagenet'"):
        open_data(tmp_path, "imagenet")


def test_an_archive_beside_class_folders_is_not_taken_for_shards(image_root):
    with tarfile.open(image_root / "photographs.tar", "w") as archive:
        archive.add(image_root / "train", "train")
    with pytest.raises(ValueError, match="holds several data sets, shards, folder: choose with --dataset"):
        open_data(image_root)
    assert len(open_data(image_root, "folder").train) == 36
    (image_root / "photographs.tar").rename(image_root / "._photographs.tar")  # as macOS adds them
    assert len(open_data(image_root).train) == 36


def test_a_table_is_what_it_is_whatever_lies_beside_its_images(image_root, tmp_path):
    (image_root / "x.tar").touch()
    rows = [f"train/{name}/{i}.png,{name}" for name in ("red", "blue") for i in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    assert len(open_data(image_root, table=tmp_path / "t.csv", val_split=0.5).train) == 4


def test_annotated_folders_are_checked(tmp_path):
    with pytest.raises(ValueError, match="--data: there is no folder"):
        open_detection(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"holds no boxes in a known layout \(coco: .*; voc: .*JPEGImages\)"
    ):
        open_detection(tmp_path)
    with pytest.raises(ValueError, match=r"holds no label maps in a known layout \(ade20k: .*; voc: "):
        open_segmentation(tmp_path)
    with pytest.raises(ValueError, match="--dataset coco needs --data DIR"):
        open_detection(None, "coco")
    with pytest.raises(ValueError, match="--dataset scenes needs no --data"):
        open_segmentation(tmp_path, "scenes")


def test_names_and_settings_import_no_torch():
    """The command line imports them to make its options."""
    code = (
        "import sys, types\n"
        "package = types.ModuleType('recursivemix'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['recursivemix'] = package\n"
        "import recursivemix.data.names, recursivemix.data.settings\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'PIL', 'timm'}))"
    )
    package = names.__file__.rpartition("/data/")[0]
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_no_module_of_the_data_imports_timm():
    code = (
        "import sys, pkgutil, importlib, recursivemix.data as data\n"
        "for module in pkgutil.walk_packages(data.__path__, 'recursivemix.data.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(*({'timm', 'lightning', 'datasets', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
