"""Run the commands of a grid as processes: start, watch and stop them together.

Every run is a process of its own: it inherits nothing from the run before, and a crash stops only itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

PR_SET_PDEATHSIG = 1
"""Linux prctl(2): signal to receive when the parent process dies."""
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

Start = Callable[[list[str], Path, int | None], int]
"""Run a command to its end; append its output to a log; limit its threads; return the exit code."""


class Named(Protocol):
    """A job of a grid."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


class RunError(Exception):
    """A run failed; the message is one line."""


class GridStoppedError(Exception):
    """Ctrl-C or SIGTERM; the runs that were stopped can be resumed."""


def beside(folder: Path, ending: str) -> Path:
    """Return the file next to a run folder with its name and an ending."""
    return folder.parent / f"{folder.name}{ending}"


def check_code(code: int, name: str, log: Path) -> None:
    """Raise RunError with the last line of the log if a command failed."""
    if code == 0:
        return
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:  # a full disk takes no log either
        lines = ["no output" if shutil.disk_usage(log.parent).free else os.strerror(errno.ENOSPC)]
    raise RunError(f"{name} ended with exit code {code}: {lines[-1]} (see {log})")


def stop_with_parent(number: int) -> Callable[[], None] | None:
    """Return a function for a new process that lets the kernel send it a signal when its parent dies.

    Otherwise it would write into a run folder that a later command resumes.
    """
    if LIBC is None:
        return None
    prctl, parent = LIBC.prctl, os.getpid()

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), number)

    return ask_the_kernel


def process_options(output: IO[bytes], threads: int | None, number: int) -> dict[str, Any]:
    """Return the options of `subprocess.Popen` for a run.

    Args:
        output: the run's log.
        threads: of the process; None leaves torch its default.
        number: the signal that it gets when its parent dies.
    """
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    files = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
    return {**files, "env": os.environ | limit, "preexec_fn": stop_with_parent(number)}


class Processes:
    """Starts processes, and can stop them all; a run writes a checkpoint before it stops."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def start(self, words: list[str], log: Path, threads: int | None) -> int:
        """Run a command to its end; return the exit code."""
        with log.open("ab") as output:
            with self._lock:
                if self.stopped:
                    return -signal.SIGTERM
                # In a new session, Ctrl-C reaches this process only, which stops each of them once.
                options = process_options(output, threads, signal.SIGTERM)
                process = subprocess.Popen(words, start_new_session=True, **options)
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Stop all processes, and start no more."""
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
    """Run all jobs on this machine, ``parallel`` at a time.

    Args:
        jobs: what to run.
        work: runs one job with a number of threads, through the given `Start`; may raise RunError.
        parallel: number of jobs at a time; they share the cores.
        done: is called with each finished job, and the problem if it failed.

    Returns:
        The problem of each failed job by its name.

    Raises:
        GridStoppedError: Ctrl-C or SIGTERM, after the running jobs have written their checkpoints.
    """
    threads = None if parallel == 1 else max(1, (os.cpu_count() or 1) // parallel)
    processes = Processes()
    problems: dict[str, str] = {}
    handler = signal.signal(signal.SIGTERM, _interrupt) if _in_main_thread() else None
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


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
