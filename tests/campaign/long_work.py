"""Long work in a process of its own, whose memory and open files are measured; see fork_server.py.

``main`` writes the samples as JSON: after each share of the work, memory in MiB and open file descriptors.
"""

import json
import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

from recursivemix.data.formats.digits import digits
from recursivemix.evaluation.predict import predict
from recursivemix.explain.studio import Studio
from recursivemix.models.checkpoint_file import write_checkpoint
from recursivemix.models.trained import load
from samples import trained_content, write_images

SHARES = 20
"""Samples of each kind of work."""


def resident():
    """Memory of this process in MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def descriptors():
    """Number of open file descriptors."""
    return len(os.listdir("/proc/self/fd"))


def requests(count, folder):
    """Requests of one step of the studio, with changing settings."""
    from served import ask, served

    with served(Studio(digits())) as port:
        for share in range(SHARES):
            for number in range(count // SHARES):
                mixer = ("recursivemix", "cutmix")[number % 2]
                path = f"/mixed?mixer={mixer}&step={1 + number % 6}&seed={share}"
                assert ask(port, path)[0].status == 200
            yield


def uploads(count, folder):
    """Images of 36 million pixels, sent to the studio."""
    from served import ask, picture, served

    body = picture((6000, 6000), kind="JPEG")
    with served(Studio(digits())) as port:
        for _ in range(count):
            assert ask(port, "/image", "POST", body)[0].status == 200
            yield


def predictions(count, folder):
    """Predictions of image files, with one checkpoint."""
    write_checkpoint(trained_content(), folder / "net.ckpt")
    write_images(folder / "images", count // SHARES, size=(300, 200))
    files = sorted((folder / "images").iterdir())
    model = load(folder / "net.ckpt")
    for _ in range(SHARES):
        assert len(predict([model], files, batch_size=8, workers=2)) == len(files)
        yield


WORK = {
    "studio requests": requests,
    "uploads of 36 megapixels": uploads,
    "images through predict": predictions,
}


def main(words):
    """Work and measure."""
    kind, count, out = words
    sys.path.insert(0, str(Path(__file__).parents[1] / "explain"))
    warnings.simplefilter("ignore")
    logging.disable()
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in WORK[kind](int(count), Path(folder)):
            samples.append((resident(), descriptors()))
    Path(out).write_text(json.dumps(samples))
    return 0
