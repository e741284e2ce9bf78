"""Commands that start other commands: a comparison and a search of two runs each, and their results."""

import contextlib
import json
from pathlib import Path

from recursivemix.models.checkpoint_file import read_checkpoint

SMALL = {"batch_size": 5, "workers": 0, "precision": "32", "device": "cpu", "checkpoint_every": 2}
GRIDS = {
    "compare": [
        "compare",
        "--mixers",
        "none,recursivemix",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--images",
        "4",
    ],
    "tune": ["tune", "--trials", "2", "--epochs", "2", "--seeds", "0"],
}


def words_of_grid(kind, data, out):
    """The command of a grid whose runs are made two at a time."""
    words = [*GRIDS[kind], "--jobs", "2", "--data", str(data), "--out", str(out)]
    return [*words, *(word for name, value in SMALL.items() for word in (f"--settings.{name}", str(value)))]


def processes_of(folder):
    """Ids of the processes whose command names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def results_of(kind, out):
    """What must not depend on interruptions: the checkpoint of every run, and what follows from them."""
    checkpoints = {
        str(path.relative_to(out)): read_checkpoint(path) for path in sorted(out.rglob("last.ckpt"))
    }
    if kind == "tune":
        record = json.loads((out / "record.json").read_text())
        return checkpoints, [(trial["params"], trial["scores"]) for trial in record["trials"]]
    record = json.loads((out / "comparison.json").read_text())
    return checkpoints, [[run["score_last"] for run in method["runs"]] for method in record["methods"]]
