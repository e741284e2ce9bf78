"""Commands that a grid of runs is made of: processes of their own, started, watched and stopped together.

Nothing is left over from the run before, and one that dies takes no other with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

Start = Callable[[list[str], Path, int | None], int]
"""Runs a command to its end, its output added to a log, with so many threads; gives the exit code."""


class Named(Protocol):
    """A run of a grid."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


class RunError(Exception):
    """A run that failed; its message is one line."""


class GridStoppedError(Exception):
    """Ctrl-C or SIGTERM; what was running can be taken up again."""


def beside(folder: Path, ending: str) -> Path:
    """A file next to a run's folder, of the same name."""
    return folder.parent / f"{folder.name}{ending}"


def check_code(code: int, name: str, log: Path) -> None:
    """Raise RunError for a command that failed, with the last line of its log."""
    if code == 0:
        return
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise RunError(f"{name} ended with exit code {code}: {lines[-1] if lines else 'no output'} (see {log})")


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


def run_all(
    jobs: Sequence[NamedT],
    work: Callable[[NamedT, int | None, Start], None],
    parallel: int,
    done: Callable[[NamedT, str | None], None],
) -> dict[str, str]:
    """Do all jobs on this machine, ``parallel`` at a time.

    Args:
        jobs: what to do.
        work: does one, with so many threads, by commands that it has started; may raise RunError.
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
            waiting: dict[Future[None], NamedT] = {
                pool.submit(work, job, threads, processes.start): job for job in jobs
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
