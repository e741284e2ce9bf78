"""Runs are started, resumed, skipped and stopped; with commands that only pretend."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from recursivemix.compare import compare, execute
from recursivemix.compare.execute import check_unchanged, is_finished, run_job
from recursivemix.compare.grid import Job, Run
from recursivemix.compare.processes import GridStoppedError, RunError

PRETENDER = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--out") + 1]) if "--out" in words else None
if "--resume" in words:
    folder = pathlib.Path(words[words.index("--resume") + 1])
mode = os.environ.get("PRETEND", "")
print("words", json.dumps(words), "threads", os.environ.get("OMP_NUM_THREADS"))
if words[0] in ("fit", "transfer"):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").write_text("x")
    if mode == "slow":
        time.sleep(60)
    if mode == "fail" and "mixer: cutmix" in " ".join(words):
        sys.exit("out of luck")
    (folder / "record.json").write_text("{}")
else:
    folder.write_text('{"corruption_images": 90, "images": 90}')
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A command line whose runs take no time."""
    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER)
    monkeypatch.setattr(execute, "CLI", (sys.executable, str(script)))
    return tmp_path


def job(label: str = "none", seed: int = 0, images: int = 50, **settings) -> Job:
    settings = {"mixer": label, "seed": seed, **settings}
    return Job((Run(f"runs/{label}-seed{seed}", ("fit",), settings, seed, label, None, "all", images),))


def run_locally(jobs, out, parallel, done):
    return compare.run_jobs(jobs, out, "local", None, parallel, done)


def commands(log: Path) -> list[list[str]]:
    lines = [line for line in log.read_text().splitlines() if line.startswith("words ")]
    return [json.loads(line[6 : line.index(" threads")]) for line in lines]


def test_a_run_is_fitted_evaluated_and_then_left_alone(pretend):
    ended = []
    for _ in range(2):
        assert run_locally([job(data="D")], pretend, 1, lambda *args: ended.append(args)) == {}
    assert [(j.name, problem) for j, problem in ended] == [("none-seed0", None)] * 2
    assert is_finished(job().runs[0], pretend)
    fit, evaluate = commands(pretend / "runs" / "none-seed0.log")  # once
    assert fit[0] == "fit"
    assert "mixer: none" in fit[fit.index("--config") + 1]
    assert evaluate[:1] == ["evaluate"]
    assert evaluate[evaluate.index("--checkpoint") + 1].endswith("none-seed0/checkpoints/last.ckpt")
    assert evaluate[evaluate.index("--data") + 1] == "D"
    assert evaluate[evaluate.index("--images") + 1] == "50"
    assert evaluate[evaluate.index("--probes") + 1] == "all"
    assert "--device" not in evaluate


def test_a_run_is_evaluated_as_it_was_trained(pretend):
    settings = {"data": "D", "device": "cpu", "precision": "32", "workers": 0}
    assert run_locally([job(**settings)], pretend, 1, lambda *args: None) == {}
    _, evaluate = commands(pretend / "runs" / "none-seed0.log")
    assert {name: evaluate[evaluate.index(f"--{name}") + 1] for name in settings} == {
        name: str(value) for name, value in settings.items()
    }


def test_an_interrupted_run_is_resumed_and_an_unborn_one_begins_anew(pretend):
    (pretend / "runs" / "none-seed0" / "checkpoints").mkdir(parents=True)
    (pretend / "runs" / "none-seed0" / "checkpoints" / "last.ckpt").write_text("x")
    (pretend / "runs" / "none-seed1" / "checkpoints").mkdir(parents=True)
    (pretend / "runs" / "none-seed1" / "config.yaml").write_text("left over")
    run_locally([job(), job(seed=1)], pretend, 1, lambda *args: None)
    assert commands(pretend / "runs" / "none-seed0.log")[0][:2] == ["fit", "--resume"]
    assert commands(pretend / "runs" / "none-seed1.log")[0][:2] == ["fit", "--config"]
    assert not (pretend / "runs" / "none-seed1" / "config.yaml").exists()


def test_one_that_fails_takes_no_other_with_it(pretend, monkeypatch):
    monkeypatch.setenv("PRETEND", "fail")
    problems = run_locally([job("cutmix"), job("none")], pretend, 1, lambda *args: None)
    assert list(problems) == ["cutmix-seed0"]
    assert "out of luck" in problems["cutmix-seed0"]
    assert "cutmix-seed0.log" in problems["cutmix-seed0"]
    assert is_finished(job().runs[0], pretend)


def test_jobs_share_the_cores(pretend, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run_locally([job(seed=s) for s in range(4)], pretend, 4, lambda *args: None)
    for seed in range(4):
        assert " threads 2" in (pretend / "runs" / f"none-seed{seed}.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_runs_and_begins_no_more(pretend, monkeypatch, number):
    monkeypatch.setenv("PRETEND", "slow")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it

    def stop():
        while not (pretend / "runs" / "none-seed0" / "checkpoints" / "last.ckpt").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    try:
        with pytest.raises(GridStoppedError):
            run_locally([job(seed=s) for s in range(3)], pretend, 1, lambda *args: None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 40  # the pretended run would go on for a minute
    assert not (pretend / "runs" / "none-seed1.log").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_folder_of_other_settings_is_refused(pretend):
    run_locally([job(lr=0.1)], pretend, 1, lambda *args: None)
    (pretend / "runs" / "none-seed0" / "evaluation.json").unlink()
    check_unchanged(job(lr=0.1).runs[0], pretend)
    with pytest.raises(ValueError, match=r"lr was 0\.1, is 0\.2"):
        check_unchanged(job(lr=0.2).runs[0], pretend)


def test_an_evaluation_on_other_images_is_refused(pretend):
    run_locally([job()], pretend, 1, lambda *args: None)
    check_unchanged(job(images=90).runs[0], pretend)
    check_unchanged(job(images=200).runs[0], pretend)  # there are no more
    with pytest.raises(ValueError, match="was evaluated on 90 images, --images is 50"):
        check_unchanged(job().runs[0], pretend)


def test_an_evaluation_with_fewer_probes_is_refused(pretend):
    run_locally([job()], pretend, 1, lambda *args: None)
    evaluation = {"subset": 50, "images": 90, "probes": ["accuracy", "calibration"]}
    file = pretend / "runs" / "none-seed0" / "evaluation.json"
    file.write_text(json.dumps(evaluation))
    check_unchanged(replace(job().runs[0], probes="accuracy"), pretend)
    with pytest.raises(ValueError, match="was evaluated with --probes accuracy,calibration: use these"):
        check_unchanged(job().runs[0], pretend)
    file.write_text(json.dumps(evaluation | {"probes": ["accuracy"], "labels": {}}))  # several labels
    check_unchanged(job().runs[0], pretend)


def backbone_job(epochs: int = 2) -> Job:
    before = Run("backbones/none-seed0", ("fit",), {"mixer": "none", "seed": 0}, 0)
    after = Run(
        "runs/dense-seed0",
        ("transfer", "detection"),
        {"epochs": epochs, "seed": 0},
        0,
        "dense",
        before.folder,
    )
    return Job((before, after))


def test_a_backbone_is_trained_once_and_then_transferred(pretend):
    for _ in range(2):
        assert run_locally([backbone_job()], pretend, 1, lambda *args: None) == {}
    (fit,) = commands(pretend / "backbones" / "none-seed0.log")
    assert fit[0] == "fit"
    assert "backbone" not in fit[fit.index("--config") + 1]
    (transfer,) = commands(pretend / "runs" / "dense-seed0.log")
    assert transfer[:2] == ["transfer", "detection"]
    settings = yaml.safe_load(transfer[transfer.index("--config") + 1])
    last = (pretend / "backbones" / "none-seed0" / "checkpoints" / "last.ckpt").absolute()
    assert settings == {"epochs": 2, "seed": 0, "backbone": str(last)}
    assert not (pretend / "runs" / "dense-seed0" / "evaluation.json").exists()


def test_a_stopped_transfer_is_resumed_and_its_backbone_left_alone(pretend):
    run_locally([backbone_job()], pretend, 1, lambda *args: None)
    run = pretend / "runs" / "dense-seed0"
    (run / "record.json").unlink()
    run_locally([backbone_job()], pretend, 1, lambda *args: None)
    assert commands(pretend / "runs" / "dense-seed0.log")[1] == [
        "transfer",
        "detection",
        "--resume",
        str(run),
    ]
    assert len(commands(pretend / "backbones" / "none-seed0.log")) == 1


def test_changed_settings_of_a_transfer_are_refused_and_a_moved_folder_is_not(pretend):
    run_locally([backbone_job()], pretend, 1, lambda *args: None)
    file = pretend / "runs" / "dense-seed0.json"
    # Earlier versions kept the path of the backbone.
    file.write_text(json.dumps(json.loads(file.read_text()) | {"backbone": "/moved/last.ckpt"}))
    check_unchanged(backbone_job().runs[1], pretend)
    with pytest.raises(
        ValueError, match=r"dense-seed0 was made with other settings \(epochs was 2, is 9\)"
    ):
        check_unchanged(backbone_job(epochs=9).runs[1], pretend)


def test_a_label_with_a_dot_keeps_its_files_apart(pretend):
    for label in ("omega-0.1", "omega-0.5"):
        run_locally([job(label)], pretend, 1, lambda *args: None)
    names = {path.name for path in (pretend / "runs").iterdir()}
    assert {"omega-0.1-seed0.log", "omega-0.5-seed0.log", "omega-0.1-seed0.json"} <= names


def test_a_command_without_output_still_has_a_message(pretend):
    def silent(words, log, threads):
        log.touch()
        return 3

    with pytest.raises(RunError, match="exit code 3: no output"):
        run_job(job(), pretend, None, silent)


def test_the_executor_is_chosen_by_its_name(monkeypatch, tmp_path):
    called = []
    for name in ("run_all", "run_on_ray"):
        monkeypatch.setattr(compare, name, lambda *arguments, name=name: called.append((name, arguments)))
    compare.run_jobs([job()], tmp_path, "local", None, 2, print)
    compare.run_jobs([job()], tmp_path, "ray", "head:1", 2, print)
    (local, (jobs, _, *options)), ray = called
    assert (local, jobs, options) == ("run_all", [job()], [2, print])
    assert ray == ("run_on_ray", ([job()], tmp_path, "head:1", 2, print))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize(
    ("start", "output"),
    [
        ("from recursivemix.compare.processes import Processes; start = Processes().start", ["stopped"]),
        ("from recursivemix.compare.on_ray import start", []),  # SIGKILL: no handler runs
    ],
    ids=["this machine", "Ray's worker"],
)
def test_a_command_is_stopped_when_its_parent_is_killed(python, tmp_path, start, output):
    """As the run of a comparison that is killed: nothing else writes into the folder that is resumed."""
    command = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('stopped')))\n"
        "print(os.getpid(), flush=True); time.sleep(300)"
    )
    log = tmp_path / "log"
    words = f"[sys.executable, '-c', {command!r}]"
    code = f"import sys; from pathlib import Path; {start}; start({words}, Path({str(log)!r}), None)"
    parent = subprocess.Popen([python, "-c", code])
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    process = Path("/proc", log.read_text().strip())
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.exists()
    assert log.read_text().split()[1:] == output


ORPHANED_WHILE_IT_STARTS = """
import os, signal, time
from recursivemix.compare.processes import stop_with_parent

parent, stop = os.getpid(), stop_with_parent(signal.SIGKILL)
if not os.fork():
    while os.getppid() == parent:
        time.sleep(0.01)
    print("asks", flush=True)
    stop()
    print("goes on", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_run_whose_comparison_was_killed_while_it_started_stops(python):
    # Its output ends when the last of the two processes has ended.
    done = subprocess.run(
        [python, "-c", ORPHANED_WHILE_IT_STARTS], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "asks\n"
