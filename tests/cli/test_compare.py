"""compare, evaluate and report on the command line, with real runs on small images."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from PIL import Image

from recursivemix.cli import main
from recursivemix.compare import execute
from recursivemix.compare.execute import EVALUATION, LAST, RECORD
from samples import write_images

SMALL = [
    "--images", "6", "--settings.batch_size", "8", "--settings.workers", "0", "--settings.precision", "32",
    "--jobs", "2",
]  # fmt: skip
"""Options of a small comparison; each of two runs at a time has one thread."""
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def arguments(root, out, *others: str) -> list[str]:
    return ["compare", "--data", str(root), "--mixers", "none,cutmix", "--out", str(out), *SMALL, *others]


@pytest.fixture(scope="module", autouse=True)
def forks(python):
    """Runs start in milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "CLI", (python, *execute.CLI[1:]))
        yield


@pytest.fixture(scope="module")
def compared(forks, tmp_path_factory):
    """Images and the folder of a comparison of two methods with one seed."""
    root = tmp_path_factory.mktemp("compare")
    for hue, name in enumerate(("blue", "green", "red")):
        write_images(root / "data" / "train" / name, 8, hue=hue)
        write_images(root / "data" / "val" / name, 5, hue=hue)
    assert main(arguments(root / "data", root / "out", "--seeds", "1", "--epochs", "1")) == 0
    return root / "data", root / "out"


def records(out) -> dict[str, tuple[int, str]]:
    """When each record was written, and what it says."""
    files = [path for path in out.glob("runs/*/*.json") if path.name in (RECORD, EVALUATION)]
    return {str(path): (path.stat().st_mtime_ns, path.read_text()) for path in files}


def test_a_comparison_ends_in_a_page(compared, capsys):
    _, out = compared
    comparison = json.loads((out / "comparison.json").read_text())
    assert [method["label"] for method in comparison["methods"]] == ["none", "cutmix"]
    assert [len(method["runs"]) for method in comparison["methods"]] == [1, 1]
    assert comparison["unfinished"] == []
    for method in comparison["methods"]:
        for run in method["runs"]:
            record = json.loads((out / run["folder"] / RECORD).read_text())
            score = record.get("score_last", record.get("acc1_last"))
            assert run["values"]["acc1_last"] == score
            assert run["evaluation"]["accuracy"]["top1"] == pytest.approx(score, abs=1e-4)
            assert run["correct"]
    assert comparison["answer"] in (out / "page.html").read_text().replace("&#39;", "'")
    names = {path.name for path in (out / "pictures").iterdir()}
    assert {"gallery-none.png", "gallery-cutmix.png", "cams-none.png", "cams-images.png"} <= names


def test_finished_runs_are_not_run_again_and_more_seeds_are_added(compared, capsys):
    root, out = compared
    before = records(out)
    assert main(arguments(root, out, "--seeds", "1", "--epochs", "1")) == 0
    assert "2 of 2 jobs are finished already" in capsys.readouterr().out
    assert records(out) == before
    assert main(arguments(root, out, "--seeds", "2", "--epochs", "1")) == 0
    assert before.items() <= records(out).items()
    assert len(records(out)) == len(before) + 4


def test_other_settings_are_refused_and_nothing_is_lost(compared, capsys):
    root, out = compared
    before = records(out)
    assert main(arguments(root, out, "--seeds", "2", "--epochs", "2")) == 2
    assert "epochs" in capsys.readouterr().err
    assert records(out) == before


def test_the_page_and_the_tables_again(compared, capsys, tmp_path):
    _, out = compared
    page = (out / "page.html").read_text()
    (out / "page.html").unlink()
    files = {name: tmp_path / f"table.{name}" for name in ("json", "csv", "latex")}
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["report", str(out), *flags]) == 0
    assert (out / "page.html").read_text() == page
    assert json.loads(files["json"].read_text())["baseline"] == "none"
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert {row["method"] for row in rows} >= {"none", "cutmix"}
    assert r"\begin{tabular}" in files["latex"].read_text()
    assert main(["report", str(tmp_path)]) == 2
    assert "has no comparison.json" in capsys.readouterr().err


def test_evaluate_prints_and_keeps_what_a_checkpoint_is_worth(compared, capsys, tmp_path):
    root, out = compared
    checkpoint = out / "runs" / "none-seed0" / LAST
    record = tmp_path / "evaluation.json"
    words = [
        "evaluate",
        "--checkpoint",
        str(checkpoint),
        "--data",
        str(root),
        "--images",
        "6",
        "--probes",
        "all",
        "--precision",
        "32",
    ]
    assert main([*words, "--out", str(record)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(record.read_text())
    assert f"{found['nll']:.4f}" in printed
    kept = json.loads((checkpoint.parents[1] / EVALUATION).read_text())
    assert {k: found[k] for k in ("nll", "corruptions", "occlusion")} == {
        k: kept[k] for k in ("nll", "corruptions", "occlusion")
    }
    assert main(["evaluate", "--checkpoint", str(tmp_path / "nothing.ckpt")]) == 2


def test_a_dry_run_says_how_long_it_takes_and_writes_nothing(image_root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(image_root, out, "--seeds", "2", "--epochs", "3", "--dry-run")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith("none: 2 seeds x 3 epochs")
    assert lines[1].startswith("cutmix: 2 seeds x 3 epochs")
    assert lines[2].startswith("in total about")
    assert "memorize their training images" in lines[3]
    assert lines[4].startswith("measured by this project, training from scratch with")
    assert not out.exists()


def test_a_stopped_comparison_goes_on_and_methods_are_added(python, image_root, tmp_path):
    """Stopped in the midst of a run: that run is taken up, not begun again."""
    out = tmp_path / "out"
    words = arguments(image_root, out, "--seeds", "1", "--epochs", "15", "--settings.checkpoint_every", "2")
    words += ["--probes", "accuracy"]
    place = words.index("none,cutmix")
    words[place] = "none"
    command = [python, "-m", "recursivemix.cli", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "runs" / "none-seed0" / LAST).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "the same command resumes the comparison" in errors
    assert not (out / "comparison.json").exists()
    words[place] = "none,cutmix"
    command = [python, "-m", "recursivemix.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert len(records(out)) == 4
    record = json.loads((out / "runs" / "none-seed0" / RECORD).read_text())
    assert record["resumed_at_steps"]
    assert len(record["epochs"]) == 15


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["--budget", "2h", "--epochs", "3"], "leave --epochs or --budget out"),
        (["--budget", "soon"], "--budget must be a time such as 2h, 45m or 90s"),
        (["--budget", "1s", "--seeds", "50"], "budget"),
        (["--baseline", "mixup"], "--baseline must be one of none, cutmix"),
        (["--address", "here"], "add --executor ray"),
        (["--model", "resnet1"], "resnet1"),
    ],
)
def test_wrong_questions_are_refused_before_anything_is_written(
    image_root, tmp_path, capsys, others, message
):
    out = tmp_path / "out"
    assert main(arguments(image_root, out, *others)) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_images_of_several_labels(tmp_path, capsys):
    images, lines = tmp_path / "images", ["image,label,split"]
    images.mkdir()
    for i in range(24):
        Image.new("RGB", (8, 8), (10 * i, 255 - 10 * i, 50)).save(images / f"{i}.png")
        labels = ["dark;green", "dark", "green"][i % 3]
        lines.append(f"images/{i}.png,{labels},{'train' if i < 12 else 'val'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    out = tmp_path / "compared"
    words = [
        "--settings.table",
        str(tmp_path / "labels.csv"),
        "--settings.device",
        "cpu",
        "--mixers",
        "none",
    ]
    sizes = ["--model", "resnet20", "--settings.image-size", "8", "--seeds", "1", "--epochs", "1"]
    assert main(["compare", *words, *sizes, "--out", str(out)]) == 0
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["score"] == "map"
    assert "mAP, last epoch" in (out / "page.html").read_text()
    shown = json.loads((out / "pictures/cams.json").read_text())["images"]
    assert shown[:3] == ["dark, green", "dark", "dark, green"]  # images 0, 1 and 3 of the 12


def test_runs_that_fail_are_explained_once_and_named_at_the_end(compared, tmp_path, capsys, monkeypatch):
    root, finished = compared
    out = tmp_path / "compared"
    shutil.copytree(finished, out)

    def fail(jobs, *others):
        for job in jobs:
            others[-1](job, f"{job.name}: out of luck")
        return {job.name: f"{job.name}: out of luck" for job in jobs}

    monkeypatch.setattr("recursivemix.compare.compare.run_jobs", fail)
    assert main(arguments(root, out, "--seeds", "3", "--epochs", "1")) == 1
    printed = capsys.readouterr()
    for name in ("none-seed2", "cutmix-seed2"):
        assert printed.out.count(f"{name}: out of luck") == printed.err.count(name) == 1
    assert "out of luck" not in printed.err
    assert "runs failed, for the reasons above: " in printed.err
