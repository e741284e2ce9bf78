"""The grid on Ray's real local cluster: the same runs, a folder of elsewhere, a worker that is lost."""

import json
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recursivemix.compare import on_ray
from recursivemix.compare.execute import LAST, is_finished
from recursivemix.compare.grid import Job, jobs_of
from recursivemix.compare.on_ray import place, run_on_ray
from recursivemix.compare.settings import CompareSettings

ray = pytest.importorskip("ray", reason="Ray is not installed")
# Of Ray and its own use of the system.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def cluster(python):
    """A cluster of two cores on this machine."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"py_executable": python},
    )
    yield
    ray.shutdown()


def grid(root: Path, epochs: int = 1, seeds: int = 1) -> CompareSettings:
    return CompareSettings(
        data=root,
        mixers="none",
        seeds=seeds,
        epochs=epochs,
        images=6,
        settings={"batch_size": 8, "workers": 0, "precision": "32", "checkpoint_every": 1},
    )


def test_runs_arrive_in_the_same_folder(cluster, image_root, tmp_path):
    ended = []
    jobs = jobs_of(grid(image_root, seeds=2))
    assert run_on_ray(jobs, tmp_path, None, 2, lambda *args: ended.append(args)) == {}
    assert {(job.name, problem) for job, problem in ended} == {("none-seed0", None), ("none-seed1", None)}
    for job in jobs:
        assert is_finished(job.runs[0], tmp_path)
        assert (tmp_path / "runs" / job.name / LAST).is_file()
    assert not (tmp_path / ".shared").exists()
    assert ray.is_initialized()  # a cluster that was up stays up


def test_a_machine_that_does_not_share_the_folder_sends_its_files(cluster, image_root, tmp_path):
    (job,) = jobs_of(grid(image_root))
    out = tmp_path / "out"
    files = ray.get(ray.remote(on_ray.run_somewhere).remote(job, str(out), "another token", 1))
    assert not out.exists()
    place(files, out)
    folder = out / job.runs[0].folder
    assert is_finished(job.runs[0], out)
    assert (folder / LAST).is_file()
    assert json.loads((folder / "record.json").read_text())["seed"] == 0


def test_a_lost_worker_is_replaced_and_its_run_goes_on(cluster, image_root, tmp_path):
    runs = tmp_path / "runs"
    jobs = jobs_of(grid(image_root, epochs=40))
    killed = []

    def kill_the_worker():
        """As soon as there is something to go on from."""
        last = runs / jobs[0].name / LAST
        while not last.exists():
            time.sleep(0.05)
        processes = subprocess.run(
            ["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True
        )
        for line in processes.stdout.splitlines()[1:]:
            pid, parent, command = line.split(maxsplit=2)
            if "recursivemix.cli fit" in command and str(runs) in command:
                os.kill(int(parent), signal.SIGKILL)
                killed.append(int(pid))
                return

    thread = threading.Thread(target=kill_the_worker, daemon=True)
    thread.start()
    # As if for two at a time: one thread, where two would wait for each other beside other tests.
    assert run_on_ray(jobs, tmp_path, None, 2, lambda *args: None) == {}
    thread.join()
    assert killed
    record = json.loads((runs / jobs[0].name / "record.json").read_text())
    assert record["resumed_at_steps"]  # taken up, not begun again
    assert len(record["epochs"]) == 40
    assert not Path(f"/proc/{killed[0]}").exists()  # it died with its worker


def test_a_run_that_fails_is_told_and_not_tried_again(cluster, tmp_path, image_root):
    (job,) = jobs_of(grid(image_root))
    (run,) = job.runs
    broken = Job((replace(run, settings=run.settings | {"data": str(tmp_path / "nowhere")}),))
    problems = run_on_ray([broken], tmp_path, None, 1, lambda *args: None)
    assert "there is no folder" in problems[job.name]


def test_a_cluster_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ValueError, match=r"--address 127\.0\.0\.1:1: no Ray cluster answers"):
        run_on_ray([], tmp_path, "127.0.0.1:1", 1, lambda *args: None)
