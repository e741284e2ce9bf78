"""Who runs the grid: this machine, one run after the other or several at a time; and what a run is.

A run is the two commands that a person would type, ``recursivemix fit`` and ``recursivemix evaluate``, each
a process of its own: nothing is left over from the run before, and one that dies takes no other with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import yaml

from recursivemix.report.records import write_json

from .grid import Job

CLI = (sys.executable, "-m", "recursivemix.cli")
RECORD, EVALUATION = "record.json", "evaluation.json"
LAST = Path("checkpoints", "last.ckpt")


class RunError(Exception):
    """A run that failed; its message is one line."""


class GridStoppedError(Exception):
    """Ctrl-C or SIGTERM; what was running can be taken up again."""


def is_finished(folder: Path) -> bool:
    """Whether a run has both of its records."""
    return (folder / RECORD).is_file() and (folder / EVALUATION).is_file()


def beside(folder: Path, ending: str) -> Path:
    """A file next to a run's folder, of the same name."""
    return folder.parent / f"{folder.name}{ending}"


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


def run_job(
    job: Job, folder: Path, threads: int | None, start: Callable[[list[str], Path, int | None], int]
) -> None:
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
        _check(start([*CLI, *words], log, threads), job, log)
    words = ["evaluate", "--checkpoint", str(folder / LAST), "--images", str(job.images)]
    for name in ("data", "dataset"):
        if name in job.settings and job.settings[name] != "auto":
            words += [f"--{name}", str(job.settings[name])]
    words += ["--out", str(folder / EVALUATION)]
    _check(start([*CLI, *words], log, threads), job, log)


def _check(code: int, job: Job, log: Path) -> None:
    if code == 0:
        return
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise RunError(
        f"{job.name} ended with exit code {code}: {lines[-1] if lines else 'no output'} (see {log})"
    )


def environment_with(threads: int | None) -> dict[str, str]:
    """This process's environment, for a process that uses so many threads."""
    if threads is None:
        return dict(os.environ)
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


class Processes:
    """Starts commands and can stop them all; each writes its checkpoint first, as `fit` does on SIGTERM."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def start(self, words: list[str], log: Path, threads: int | None) -> int:
        """Run a command to its end; the exit code."""
        with log.open("ab") as output:
            with self._lock:
                if self.stopped:
                    return -signal.SIGTERM
                # Its own session: Ctrl-C comes to this process alone, which then stops each once.
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment_with(threads),
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Ask all of them to stop, and let none begin."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


def run_locally(
    jobs: Sequence[Job], runs: Path, parallel: int, done: Callable[[Job, str | None], None]
) -> dict[str, str]:
    """Run the jobs on this machine, ``parallel`` at a time.

    Args:
        jobs: what to run; finished ones are passed over.
        runs: the folder of their folders.
        parallel: how many at a time; they share the cores.
        done: is told each job that ended, and the problem if it failed.

    Returns:
        The problem of every job that failed, by its name.

    Raises:
        GridStoppedError: Ctrl-C or SIGTERM, after the running ones have written their checkpoints.
    """
    threads = None if parallel == 1 else max(1, (os.cpu_count() or 1) // parallel)
    processes = Processes()
    problems: dict[str, str] = {}
    handler = signal.signal(signal.SIGTERM, _raise_stop) if _in_main_thread() else None
    try:
        with ThreadPoolExecutor(parallel) as pool:
            waiting: dict[Future[None], Job] = {
                pool.submit(run_job, job, runs / job.name, threads, processes.start): job for job in jobs
            }
            try:
                while waiting:
                    ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ended:
                        job = waiting.pop(future)
                        problem = _problem_of(future)
                        if problem is not None:
                            problems[job.name] = problem
                        done(job, problem)
            except BaseException:
                processes.stop()
                for future in waiting:
                    future.cancel()
                raise
    except KeyboardInterrupt as error:
        raise GridStoppedError("stopped") from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
    return problems


def _problem_of(future: Future[None]) -> str | None:
    try:
        future.result()
    except (RunError, OSError) as error:
        return str(error)
    return None


def _raise_stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
