"""Read mutated files of a format of labelled images: read, refused in one line, or left out; nothing else.

``main`` is called in a process of its own, see fork_server.py, and writes what became of the files.
"""

import contextlib
import json
import re
import resource
import shutil
import warnings
from collections import Counter
from pathlib import Path

import torch

from campaign.decisions import Decisions
from campaign.mutated_files import MUTATIONS, WRITERS, mutated_image
from recursivemix.cli.errors import one_line
from recursivemix.data.crop import evaluation_crop
from recursivemix.data.images import cropped
from recursivemix.data.open import open_images
from recursivemix.data.printable import printable
from recursivemix.data.settings import MAX_PIXELS, ImageSettings

MOST_MEMORY = 2**30
"""Bytes that reading a data set may add to the memory of the process."""


def read_all(data):
    """Everything that a run reads."""
    for images in (data.train, data.evaluation):
        for index in range(len(images)):
            height, width = images.size(index)
            whole = images[index]
            assert whole.dtype == torch.uint8
            assert whole.shape == (3, height, width)
            del whole
            crop = cropped(images, index, evaluation_crop(12, None, "bilinear"))
            assert crop.shape == (3, 12, 12)
            assert images.name(index)
        labels = images.labels
        assert labels.dtype == (torch.long if labels.ndim == 1 else torch.uint8)
        assert ((labels >= 0) & (labels < max(2, len(data.classes)))).all()
    assert torch.tensor([*data.mean, *data.std]).isfinite().all()
    assert min(data.std) > 0
    assert len(data.classes) > 0
    assert all(isinstance(name, str) for name in data.classes)


def refused(error, file):
    """Check that an error names the file in one line, and did not come of too little memory."""
    cause = error
    while cause is not None:
        assert not isinstance(cause, MemoryError), "it takes too much memory"
        cause = cause.__cause__ or cause.__context__
    message = printable(one_line(error))
    assert message.isprintable(), repr(message)[:300]
    assert len(message) < 1500, message[:300]
    # An empty class or split has no file to name.
    assert file.name in message or str(file.parent) in message, message


@contextlib.contextmanager
def limited_memory():
    """Limit the writable memory of this process to what it has and `MOST_MEMORY`; setrlimit(2)."""
    used = 1024 * int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def outcome(settings, file, skip):
    """Read everything: it was read, refused in one line that names a file, or left out."""
    try:
        data = open_images(ImageSettings(**settings, skip_bad=skip))
    except ValueError as error:
        refused(error, file)
        return "refused"
    try:
        read_all(data)
    except ValueError as error:
        if skip:
            raise AssertionError(f"--skip-bad let pass: {error}") from error
        refused(error, file)
        return "refused"
    return "left out" if data.skipped else "read"


def main(words):
    """Attack a format; write the number of outcomes and the failures as JSON."""
    kind, folder, seed, tries, out = words
    warnings.simplefilter("ignore")  # Pillow's, about odd files
    root = Path(folder) / f"{kind}-files"
    root.mkdir()
    settings, file = WRITERS[kind](root, kind)
    assert outcome(settings, file, False) == outcome(settings, file, True) == "read"
    good = file.read_bytes()
    seen, failures = Counter(), []
    largest = 10**6 if 1 < int(tries) < 1000 else MAX_PIXELS  # the largest images take seconds
    for number in range(int(seed), int(seed) + int(tries)):
        draw = Decisions(number)
        removed = draw.chance(0.01)
        if kind in MUTATIONS:
            changed = MUTATIONS[kind](good, draw)
        else:
            changed = mutated_image(good, kind, draw, largest)
        file.unlink() if removed else file.write_bytes(changed)
        more = {"image_size": 16} if draw.chance(0.5) else {}
        for skip in (False, True):
            try:
                with limited_memory():
                    seen[outcome(settings | more, file, skip)] += 1
            except Exception as error:
                failures.append(f"{kind} {number}, skip_bad={skip}: {type(error).__name__}: {error}"[:600])
    shutil.rmtree(root)
    Path(out).write_text(json.dumps({"seen": seen, "failures": failures}))
    return 0
