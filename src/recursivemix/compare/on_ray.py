"""The grid on a Ray cluster: each run is a task, and one whose worker is lost begins again elsewhere.

Where a worker sees the comparison's folder, it writes there, so that a run whose worker was lost goes on
from its checkpoint; elsewhere its records are sent back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from recursivemix.training.commands import GridStoppedError, RunError, beside, environment_with

from .execute import EVALUATION, LAST, RECORD, run_job
from .grid import Job

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""
RETRIES = 3
"""How often a run begins again after its worker was lost."""
SENT = (RECORD, EVALUATION, "config.yaml", "metrics.csv", "mixed_batches.png", str(LAST))
"""What comes back from a machine that does not share the folder."""


def run_on_ray(
    jobs: Sequence[Job],
    runs: Path,
    address: str | None,
    parallel: int,
    done: Callable[[Job, str | None], None],
) -> dict[str, str]:
    """Run the jobs on a cluster; arguments and result as in `run_locally`.

    Args:
        jobs: what to run. The data must be at the same path on every machine.
        runs: the folder of their folders.
        address: of the cluster's head; None starts a cluster on this machine, and ends it afterwards.
        parallel: on a cluster started here, how many runs share its processor cores.
        done: is told each job that ended.

    Raises:
        ValueError: Ray is missing, or there is no such cluster.
        GridStoppedError: Ctrl-C; the cluster's tasks are cancelled.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--executor ray needs Ray: pip install 'recursivemix[ray]'") from error
    cores = os.cpu_count() or 1
    threads = max(1, cores // parallel)
    own = not ray.is_initialized()
    try:
        if own and address is None:
            ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, configure_logging=False)
        elif own:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--address {address}: no Ray cluster answers there: {error}") from error
    problems: dict[str, str] = {}
    token = uuid4().hex
    mark = runs / ".shared"
    runs.mkdir(parents=True, exist_ok=True)
    mark.write_text(token)
    task = ray.remote(
        num_cpus=threads, num_gpus=1 if torch.cuda.is_available() else 0, max_retries=RETRIES
    )(run_somewhere)
    waiting: dict[Any, Job] = {}
    try:
        waiting = {task.remote(job, str(runs.absolute()), token, threads): job for job in jobs}
        while waiting:
            (ended, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ended)
            problem = None
            try:
                place(ray.get(ended), runs / job.name)
            except (ray.exceptions.RayError, RunError, OSError) as error:
                problem = " ".join(str(error).split())[-500:]
                problems[job.name] = problem
            done(job, problem)
    except KeyboardInterrupt as error:
        for reference in waiting:
            ray.cancel(reference, force=True)
        raise GridStoppedError("stopped") from error
    finally:
        mark.unlink(missing_ok=True)
        if own:
            ray.shutdown()
    return problems


def run_somewhere(job: Job, runs: str, token: str, threads: int) -> dict[str, bytes]:
    """One run on whatever machine this is; the files to send back, none where the folder is shared."""
    mark = Path(runs, ".shared")
    if mark.is_file() and mark.read_text() == token:
        run_job(job, Path(runs, job.name), threads, start)
        return {}
    with tempfile.TemporaryDirectory(prefix="recursivemix-") as folder:
        own = Path(folder, job.name)
        try:
            run_job(job, own, threads, start)
        except RunError as error:
            log = beside(own, ".log").read_text(errors="replace")
            raise RunError(f"{error}; the end of its log: {log[-300:]}") from error
        return {name: (own / name).read_bytes() for name in SENT if (own / name).is_file()}


def place(files: dict[str, bytes], folder: Path) -> None:
    """Write the files of a run from elsewhere; the records last, which say that it is finished."""
    for name in sorted(files, key=lambda name: name in (RECORD, EVALUATION)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[name])


def start(words: list[str], log: Path, threads: int | None) -> int:
    """Run a command to its end in this worker, which takes it along when it dies."""
    with log.open("ab") as output:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_with(threads),
            preexec_fn=_die_with_worker if sys.platform == "linux" else None,
            check=False,
        )
    return done.returncode


def _die_with_worker() -> None:
    """Have the kernel kill this process when its worker dies: the run begins again elsewhere."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
