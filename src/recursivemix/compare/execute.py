"""Who runs the grid: this machine, one run after the other or several at a time; and what a run is.

A run is the two commands that a person would type, ``recursivemix fit`` and ``recursivemix evaluate``, each
a process of its own: nothing is left over from the run before, and one that dies takes no other with it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from recursivemix.training.atomic_write import write_json
from recursivemix.training.commands import Start, beside, check_code, run_all

from .grid import Job

CLI = (sys.executable, "-m", "recursivemix.cli")
RECORD, EVALUATION = "record.json", "evaluation.json"
LAST = Path("checkpoints", "last.ckpt")


def is_finished(folder: Path) -> bool:
    """Whether a run has both of its records."""
    return (folder / RECORD).is_file() and (folder / EVALUATION).is_file()


def check_same(job: Job, folder: Path) -> None:
    """Raise ValueError where a run's folder is of other settings than the job's."""
    file = beside(folder, ".json")
    if file.is_file():
        before = json.loads(file.read_text())
        now = json.loads(json.dumps(job.settings))
        names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if names:
            changes = ", ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
            raise ValueError(
                f"{folder} is a run of other settings ({changes}): name another --out, or remove it"
            )
    if is_finished(folder):
        evaluation = json.loads((folder / EVALUATION).read_text())
        measured, most = evaluation["corruption_images"], evaluation["images"]
        if measured != min(job.images, most):
            raise ValueError(
                f"{folder} was evaluated on {measured} images, --images is {job.images}: take --images "
                f"{measured}, or remove {folder / EVALUATION}"
            )


def run_job(job: Job, folder: Path, threads: int | None, start: Start) -> None:
    """Make one run finished: begin it, or take it up where it was stopped, then evaluate its checkpoint.

    Args:
        job: what to run.
        folder: of the run; its log is beside it.
        threads: of the process; None leaves torch its choice.
        start: runs a command to its end, its output added to a log, and gives the exit code.

    Raises:
        RunError: a command failed; the message names the log.
    """
    if is_finished(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = beside(folder, ".log")
    write_json(beside(folder, ".json"), job.settings)
    if not (folder / RECORD).is_file():
        if (folder / LAST).is_file():
            words = ["fit", "--resume", str(folder)]
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first checkpoint
            words = ["fit", "--config", yaml.safe_dump(job.settings), "--out", str(folder)]
            words += ["--trainer.enable-progress-bar", "false"]
        check_code(start([*CLI, *words], log, threads), job.name, log)
    words = ["evaluate", "--checkpoint", str(folder / LAST), "--images", str(job.images)]
    for name in ("data", "dataset"):
        if name in job.settings and job.settings[name] != "auto":
            words += [f"--{name}", str(job.settings[name])]
    words += ["--out", str(folder / EVALUATION)]
    check_code(start([*CLI, *words], log, threads), job.name, log)


def run_locally(
    jobs: Sequence[Job], runs: Path, parallel: int, done: Callable[[Job, str | None], None]
) -> dict[str, str]:
    """Run the jobs on this machine, ``parallel`` at a time; as `run_all`.

    Args:
        jobs: what to run; finished ones are passed over.
        runs: the folder of their folders.
        parallel: how many at a time; they share the cores.
        done: is told each job that ended, and the problem if it failed.
    """

    def work(job: Job, threads: int | None, start: Start) -> None:
        run_job(job, runs / job.name, threads, start)

    return run_all(jobs, work, parallel, done)
