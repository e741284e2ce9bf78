"""Make runs on this machine.

A run is the commands that a person would type, ``recursivemix fit`` (or ``transfer``) and, for
classification, ``recursivemix evaluate``, each in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from recursivemix.data.atomic_write import write_json
from recursivemix.evaluation.probes import select_probes
from recursivemix.training.plain_file import named_errors, read_json

from .grid import Job, Run
from .processes import Start, beside, check_code

CLI = (sys.executable, "-m", "recursivemix.cli")
RECORD, EVALUATION = "record.json", "evaluation.json"
LAST = Path("checkpoints", "last.ckpt")


def is_finished(run: Run, out: Path) -> bool:
    """Return whether a run has all of its records."""
    folder = out / run.folder
    return (folder / RECORD).is_file() and (run.probes is None or (folder / EVALUATION).is_file())


def check_unchanged(run: Run, out: Path) -> None:
    """Raise ValueError if the run's folder was made with other settings."""
    folder = out / run.folder
    file = beside(folder, ".json")
    if file.is_file():
        before, now = read_json(file), json.loads(json.dumps(run.settings))
        if run.backbone is not None:
            before.pop("backbone", None)  # a path, in folders of earlier versions
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if names:
            changes = ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
            raise ValueError(
                f"{folder} was made with other settings ({changes}): choose another --out, or remove it"
            )
    if run.probes is not None and is_finished(run, out):
        evaluation = read_json(folder / EVALUATION)
        # Records of earlier versions have no "subset".
        measured = evaluation.get("subset", evaluation.get("corruption_images"))
        with named_errors(folder / EVALUATION):
            expected = min(run.images, evaluation["images"])
        if measured != expected:
            raise ValueError(
                f"{folder} was evaluated on {measured} images, --images is {run.images}: use --images "
                f"{measured}, or remove {folder / EVALUATION}"
            )
        several = "labels" in evaluation  # of images with several labels, some probes alone run
        wanted = [p.name for p in select_probes(run.probes) if p.several_labels or not several]
        ran = evaluation.get("probes", wanted)  # records of earlier versions have none
        if not set(wanted) <= set(ran):
            raise ValueError(
                f"{folder} was evaluated with --probes {','.join(ran)}: use these, or remove "
                f"{folder / EVALUATION}"
            )


def run_job(job: Job, out: Path, threads: int | None, start: Start) -> None:
    """Finish the runs of a job in order: start each, or resume it from its checkpoint, then evaluate it.

    Args:
        job: the runs.
        out: the comparison's folder; a run's log is beside its folder.
        threads: of each process; None leaves torch its default.
        start: runs a command, appends its output to a log, and returns the exit code.

    Raises:
        RunError: a command failed; the message names the log.
    """
    for run in job.runs:
        if not is_finished(run, out):
            _finish_run(run, out, threads, start)


def _finish_run(run: Run, out: Path, threads: int | None, start: Start) -> None:
    folder = out / run.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = beside(folder, ".log")
    write_json(beside(folder, ".json"), run.settings)
    if not (folder / RECORD).is_file():
        words = list(run.command)
        if (folder / LAST).is_file():
            words += ["--resume", str(folder)]
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            settings: dict[str, Any] = dict(run.settings)
            if run.backbone is not None:
                settings["backbone"] = str((out / run.backbone / LAST).absolute())
            words += ["--config", yaml.safe_dump(settings), "--out", str(folder)]
            words += ["--trainer.enable-progress-bar", "false"]
        check_code(start([*CLI, *words], log, threads), run.name, log)
    if run.probes is None:
        return
    words = ["evaluate", "--checkpoint", str(folder / LAST)]
    words += ["--probes", run.probes, "--images", str(run.images)]
    for name in ("data", "dataset", "device", "precision", "workers"):
        if run.settings.get(name, "auto") not in (None, "auto"):
            words += [f"--{name}", str(run.settings[name])]
    words += ["--out", str(folder / EVALUATION)]
    check_code(start([*CLI, *words], log, threads), run.name, log)
