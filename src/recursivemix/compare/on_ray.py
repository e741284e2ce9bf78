"""Make runs on a Ray cluster: each job is a Ray task, restarted on another worker if its worker is lost.

A worker that sees the comparison's folder writes there, so that a restarted run resumes from its
checkpoint. Other workers send the records back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from recursivemix.data.atomic_write import atomic_write

from .execute import EVALUATION, LAST, RECORD, run_job
from .grid import Job
from .processes import GridStoppedError, RunError, process_options

RETRIES = 3
"""Number of restarts of a job whose worker was lost."""
SENT = (
    RECORD, EVALUATION, "config.yaml", "metrics.csv", "mixed_batches.png", "predictions.png", str(LAST)
)  # fmt: skip
"""Files of a run that are sent back from a machine that does not share the folder."""


def run_on_ray(
    jobs: Sequence[Job],
    out: Path,
    address: str | None,
    parallel: int,
    done: Callable[[Job, str | None], None],
) -> dict[str, str]:
    """Run jobs on a cluster; result as in `run_all`.

    Args:
        jobs: what to run. The data must be at the same path on every machine.
        out: the comparison's folder.
        address: of the cluster's head; None starts a cluster on this machine, and stops it afterwards.
        parallel: on a cluster started here, number of jobs that share its cores.
        done: called with each job that ended, and its error message if it failed.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at ``address``.
        GridStoppedError: Ctrl-C; the cluster's tasks are cancelled.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--executor ray needs Ray: pip install 'recursivemix[ray]'") from error
    threads = max(1, (os.cpu_count() or 1) // parallel)
    starts = not ray.is_initialized()
    if starts:
        connect(address)
    problems: dict[str, str] = {}
    token = uuid4().hex
    mark = out / ".shared"
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(token)
    task = ray.remote(
        num_cpus=threads, num_gpus=1 if torch.cuda.is_available() else 0, max_retries=RETRIES
    )(run_somewhere)
    waiting: dict[Any, Job] = {}
    try:
        waiting = {task.remote(job, str(out.absolute()), token, threads): job for job in jobs}
        while waiting:
            (ended, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ended)
            problem = None
            try:
                place(ray.get(ended), out)
            except (ray.exceptions.RayError, RunError, OSError) as error:
                problem = " ".join(str(error).split())[-500:]
                problems[job.name] = problem
            done(job, problem)
    except (KeyboardInterrupt, Exception) as error:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if isinstance(error, KeyboardInterrupt):
            raise GridStoppedError("stopped") from error
        raise
    finally:
        mark.unlink(missing_ok=True)
        if starts:
            ray.shutdown()
    return problems


def connect(address: str | None) -> None:
    """Start a cluster on this machine, or join the one at an address."""
    import ray

    place = (
        {"address": address} if address else {"num_cpus": os.cpu_count() or 1, "include_dashboard": False}
    )
    try:
        ray.init(**place, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--address {address}: no Ray cluster answers there: {error}") from error


def run_somewhere(job: Job, out: str, token: str, threads: int) -> dict[str, bytes]:
    """Run a job on this machine; return the files to send back, none if the folder is shared.

    Raises:
        RunError: a command failed; the message has the end of its log.
    """
    mark = Path(out, ".shared")
    if mark.is_file() and mark.read_text() == token:
        run_job(job, Path(out), threads, start)
        return {}
    with tempfile.TemporaryDirectory(prefix="recursivemix-") as folder:
        try:
            run_job(job, Path(folder), threads, start)
        except RunError as error:
            logs = sorted(Path(folder).glob("*/*.log"), key=lambda log: log.stat().st_mtime)
            end = logs[-1].read_text(errors="replace")[-300:]
            raise RunError(f"{error}; end of its log: {end}") from error
        names = [f"{run.folder}/{name}" for run in job.runs for name in SENT]
        return {name: Path(folder, name).read_bytes() for name in names if Path(folder, name).is_file()}


def place(files: dict[str, bytes], out: Path) -> None:
    """Write the files of a job into the comparison's folder; the records last, which mark it finished."""
    for name in sorted(files, key=lambda name: name.endswith((RECORD, EVALUATION))):
        with atomic_write(out / name) as part:
            part.write_bytes(files[name])


def start(words: list[str], log: Path, threads: int | None) -> int:
    """Run a command; kill it if this worker dies. Return its exit code."""
    with log.open("ab") as output:
        return subprocess.run(words, **process_options(output, threads, signal.SIGKILL)).returncode
