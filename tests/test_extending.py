"""Files of the package that an addition touches: method 2, data format 2, detector 2, optimizer setting 1.

Each test adds one to a copy of the package, counts the files that differ, and uses it through its registry
and the command line. `tests/evaluation/test_new_probe.py` does the same for a probe.
"""

import filecmp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import recursivemix

SOURCE = Path(recursivemix.__file__).parent
METHOD = '''"""Blend each image with the mirrored one."""

from __future__ import annotations

from .batch import Inputs, Mixed, unmixed
from .draw import Draw
from .mixer import Mixer


class Mirror(Mixer):
    """Blend each image with its mirror image; labels stay."""

    def make_draw(self, batch_size, size, generator):
        return Draw()

    def apply(self, inputs: Inputs, draw: Draw) -> Mixed:
        result = unmixed(inputs)
        return result._replace(images=(inputs.images + inputs.images.flip(-1)) / 2)
'''
FORMAT = '''"""Two classes of flat images."""

from __future__ import annotations

import torch

from recursivemix.data.images import ImageData, ImageFormat, StackedImages


def flat() -> ImageData:
    """Return ten bright and ten dark images."""
    labels = torch.arange(20) % 2
    images = (labels * 200).byte().view(20, 1, 1, 1).expand(20, 3, 16, 16).contiguous()
    part = StackedImages(images, labels, "flat")
    return ImageData(part, part, ("dark", "bright"), 16, (0.5,) * 3, (0.5,) * 3, flip=False, split="val")


FLAT = ImageFormat(open=lambda settings, seed: flat(), detect=lambda settings: False, needs=None)
'''
DETECTOR = '''"""ATSS under another name."""

from __future__ import annotations

from .atss import ATSS


class Twin(ATSS):
    """ATSS."""
'''


def changed_files(copy: Path) -> list[str]:
    """Files of the copy that the package does not have, or that differ."""
    files = [file.relative_to(copy) for file in copy.rglob("*.*") if "__pycache__" not in file.parts]
    return sorted(
        str(file)
        for file in files
        if not (SOURCE / file).is_file() or not filecmp.cmp(SOURCE / file, copy / file, False)
    )


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / "package" / "recursivemix"
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


def use(python: str, copy: Path, code: str) -> str:
    """What a program prints that imports the copy."""
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_mixing_method_costs_two_files(python, copy):
    (copy / "mixing" / "mirror.py").write_text(METHOD)
    registry = copy / "mixing" / "__init__.py"
    replace(
        registry, "from .mixup import MixUp\n", "from .mirror import Mirror\nfrom .mixup import MixUp\n"
    )
    replace(registry, '    "mixup": MixUp,\n', '    "mixup": MixUp,\n    "mirror": Mirror,\n')
    assert changed_files(copy) == ["mixing/__init__.py", "mixing/mirror.py"]
    shown = use(
        python,
        copy,
        "import torch; from recursivemix import create_mixer\n"
        "batch = create_mixer('mirror', 3)(torch.rand(2, 3, 4, 4), torch.arange(2))\n"
        "print(torch.equal(batch.images, batch.images.flip(-1)))",
    )
    assert shown.strip() == "True"


def test_a_data_format_costs_two_files(python, copy):
    (copy / "data" / "formats" / "flat.py").write_text(FORMAT)
    replace(
        copy / "data" / "names.py", "IMAGE_FORMATS = {\n", 'IMAGE_FORMATS = {\n    "flat": "flat:FLAT",\n'
    )
    assert changed_files(copy) == ["data/formats/flat.py", "data/names.py"]
    shown = use(
        python,
        copy,
        "from recursivemix.cli.dispatch import parse\nfrom recursivemix.data.open import open_images\n"
        "settings = parse(['fit', '--dataset', 'flat']).arguments['settings']\n"
        "print(open_images(settings).classes)",
    )
    assert shown.strip() == "('dark', 'bright')"


def test_a_detector_costs_two_files(python, copy):
    (copy / "tasks" / "detection" / "twin.py").write_text(DETECTOR)
    replace(
        copy / "tasks" / "detection" / "names.py", '    "gfl": "gfl:GFL",\n',
        '    "gfl": "gfl:GFL",\n    "twin": "twin:Twin",\n',
    )  # fmt: skip
    assert changed_files(copy) == ["tasks/detection/names.py", "tasks/detection/twin.py"]
    shown = use(
        python,
        copy,
        "from recursivemix.cli.dispatch import parse\n"
        "from recursivemix.tasks.detection.names import load_detector\n"
        "settings = parse(['transfer', 'detection', '--detector', 'twin']).arguments['settings']\n"
        "print(load_detector(settings.detector).__name__)",
    )
    assert shown.strip() == "Twin"


def test_an_optimizer_setting_costs_one_file(python, copy):
    file = copy / "training" / "optimizer.py"
    replace(
        file,
        "        weight_decay: Weight decay.\n",
        "        weight_decay: Weight decay.\n        look: L.\n",
    )
    replace(file, "    decay_norms: bool = True\n", "    decay_norms: bool = True\n    look: int = 0\n")
    line = "            filter_bias_and_bn=not settings.decay_norms,\n"
    replace(file, line, f"{line}            maximize=settings.look > 0,\n")
    assert changed_files(copy) == ["training/optimizer.py"]
    shown = use(
        python,
        copy,
        "import torch; from recursivemix.cli.dispatch import parse\n"
        "from recursivemix.training.optimizer import create_optimizer\n"
        "for command in (['fit'], ['transfer', 'segmentation']):\n"
        "    settings = parse([*command, '--look', '3', '--lr', '0.1']).arguments['settings']\n"
        "    print(create_optimizer(torch.nn.Linear(1, 1), settings).defaults['maximize'])",
    )
    assert shown.split() == ["True", "True"]
