"""The benchmarks run, as a user starts them, and their records hold what a reader relies on.

Tiny sizes and no assertion on a time: what is fast is said by the committed records.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from recursivemix.training.devices import has_bf16

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("timm")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What docs/make_tables.py defines."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return runpy.run_path(str(ROOT / "docs" / "make_tables.py"))


def run(python: str, script: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The record and the printed text of a quick run."""
    out = folder / "new" / "record.json"
    command = [
        python,
        str(ROOT / "benchmarks" / script),
        "--quick",
        "--threads",
        "1",
        "--out",
        str(out),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in out.parent.iterdir()] == ["record.json"]  # no part is left behind
    return json.loads(out.read_text()), done.stdout


def check_origin(record: dict[str, Any], script: str) -> None:
    assert record["command"][0].endswith(script)
    assert "--quick" in record["command"]
    assert record["commit"] is None or len(record["commit"].removesuffix("+changes")) == 40
    assert record["date"].endswith("+00:00")
    assert {"python", "torch", "torchvision", "timm", "kornia"} <= set(record["versions"])
    assert record["hardware"]["threads"] == 1
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["gpu"] is None
    assert record["settings"]["quick"] is True
    assert record["seed"] == 0


def test_memory(python: str, tmp_path: Path) -> None:
    record, text = run(python, "memory.py", tmp_path)
    check_origin(record, "memory.py")
    (row,) = record["rows"]
    assert row["name"] in text
    assert len(record["resident_bytes"]) == row["steps"] // record["settings"]["steps_between_readings"]
    assert min(record["resident_bytes"]) > 0
    assert row["standard_error"] >= 0


def test_mixing(python: str, tmp_path: Path) -> None:
    record, text = run(python, "mixing.py", tmp_path)
    check_origin(record, "mixing.py")
    assert record["n"] == 2
    names = [row["name"] for row in record["rows"]]
    settings = [batch["setting"] for batch in record["settings"]["batches"]]
    for row in record["rows"]:
        assert row["setting"] in settings
        assert len(row["samples_ms"]) == record["n"]
        assert min(row["samples_ms"]) <= row["median_ms"] <= max(row["samples_ms"])
        assert row["iqr_ms"] >= 0
        assert row["calls"] >= 1
        assert row["ratio_to_copy"] > 0
        assert row["name"] in text
    assert all(row["ratio_to_copy"] == 1 for row in record["rows"] if row["name"] == "copy")
    expected = ["copy", *(f"recursivemix {m}" for m in ("RecursiveMix", "CutMix", "MixUp", "ResizeMix"))]
    expected += [f"recursivemix RecursiveMix {option}" for option in ("inplace", "per_sample")]
    assert all(names.count(name) == len(settings) for name in expected)


def test_images(python: str, tmp_path: Path) -> None:
    record, text = run(python, "images.py", tmp_path)
    check_origin(record, "images.py")
    cases = {(row["mode"], row["size"], row["workers"]) for row in record["rows"]}
    assert cases == {("training", 32, 1), ("evaluation", 32, 1)}
    for mode in ("training", "evaluation"):
        rows = {row["name"]: row for row in record["rows"] if row["mode"] == mode}
        peers = [rows[name]["samples"][0] for name in record["settings"]["peers"]]
        for name, row in rows.items():
            assert name in text
            assert row["median"] == row["best"] == row["samples"][0] > 0
            assert row["ratio"] == row["ratio_of_best"] == row["median"] / max(peers)
        assert {name for name in rows if name.startswith("recursivemix")} == {
            f"recursivemix, {source}" for source in ("files", "files, exact", "pack", "raw pack")
        }
    assert record["settings"]["mean_kib"] > 50


def test_step(python: str, tmp_path: Path) -> None:
    record, text = run(python, "step.py", tmp_path)
    check_origin(record, "step.py")
    assert record["n"] == 1
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["plain", "recursivemix", "recursivemix inplace", "cutmix"]
    for row in rows.values():
        assert len(row["samples_s"]) == record["n"]
        assert row["median_s"] == pytest.approx(row["samples_s"][0])
        assert row["iqr_s"] == pytest.approx(0)
        assert row["extra_peak_bytes"] == row["peak_bytes"] - rows["plain"]["peak_bytes"]
        assert row["name"] in text
    assert rows["plain"]["ratio_to_plain"] == 1

    # Counted by hand for the quick batch: 4 images of 3x16x16, 10 classes.
    images, rows_of_classes = 4 * 3 * 16 * 16 * 4, 4 * 10 * 4
    memory = record["memory_bytes"]
    assert memory["history"] == images + 2 * rows_of_classes
    assert memory["batch_targets_logits"] == images + 2 * rows_of_classes
    assert memory["region_head"] == 3 * (512 + 1) * 10 * 4
    # The peak holds at least the parameters with their gradients and momentum.
    assert rows["plain"]["peak_bytes"] > 3 * 11_000_000 * 4
    most = {"ratio_to_plain": 1.02, "extra_peak_bytes": 1.1 * memory["batch_targets_logits"]}
    assert [(goal["row"], goal["value_of"]) for goal in record["goals"]] == [
        (row, name) for row in ("recursivemix", "recursivemix inplace") for name in most
    ]
    for goal in record["goals"]:
        assert goal["value"] == rows[goal["row"]][goal["value_of"]]
        assert goal["at_most"] == most[goal["value_of"]]
        assert goal["reached"] == (goal["value"] <= goal["at_most"])
    # Of mixing it sees at least the history that is alive during the step.
    assert rows["recursivemix"]["extra_peak_bytes"] >= memory["history_images"]
    # In place the history is the batch itself, which the plain step holds too.
    inplace = rows["recursivemix inplace"]["extra_peak_bytes"]
    assert rows["recursivemix"]["extra_peak_bytes"] - inplace >= memory["history_images"]


def test_scaling(python: str, tmp_path: Path, tables: dict[str, Any]) -> None:
    record, text = run(python, "scaling.py", tmp_path)
    check_origin(record, "scaling.py")
    axes = record["settings"]["axes"]
    assert list(axes) == ["classes", "batch", "size", "ranks"]
    rows = {(row["axis"], row["value"], row["name"]): row for row in record["rows"]}
    curves = ("plain", "recursivemix", "call", "region head")
    expected = {(axis, value, name) for axis, values in axes.items() for value in values for name in curves}
    assert set(rows) == {row for row in expected if row[0] != "ranks" or row[2] != "region head"}
    for (axis, value, name), row in rows.items():
        plain = rows[axis, value, "plain"]["samples_ms"]
        assert len(row["samples_ms"]) == record["n"] == 2
        assert min(row["samples_ms"]) > 0
        assert row["median_ms"] == pytest.approx(median(row["samples_ms"]))
        paired = [a / b for a, b in zip(row["samples_ms"], plain, strict=True)]
        assert row["ratio_to_plain"] == pytest.approx(median(paired))
        assert name in text
    for line in record["slopes"]:
        # With two values a line's slope is that of the segment between them.
        own, plain = (
            [log(later / first) for first, later in zip(*samples, strict=True)]
            for samples in (
                [rows[line["axis"], value, name]["samples_ms"] for value in axes[line["axis"]]]
                for name in (line["name"], "plain")
            )
        )
        assert line["slope"] == pytest.approx(median(own) / log(2))  # the second value is twice the first
        first, last = (
            rows[line["axis"], value, line["name"]]["samples_ms"] for value in axes[line["axis"]]
        )
        assert line["growth_ms"] == pytest.approx(median(b - a for a, b in zip(first, last, strict=True)))
        differences = [(a - b) / log(2) for a, b in zip(own, plain, strict=True)]
        assert line["minus_plain"] == pytest.approx(median(differences))
        assert line["steeper_than_plain"] == (line["quartiles_of_minus_plain"][0] > 0)
    steeper = [f"{row['name']} over {row['axis']}" for row in record["slopes"] if row["steeper_than_plain"]]
    assert record["goal"] == {"steeper_than_plain": steeper, "reached": not steeper}

    tables["scaling_table"].__globals__["RESULTS"] = tmp_path / "new"
    (tmp_path / "new" / "record.json").rename(tmp_path / "new" / "scaling.json")
    table = tables["scaling_table"]()
    assert "| number of classes | " in table
    assert f"Steeper than the plain step: {', '.join(steeper) or 'none'}." in table


def test_startup(python: str, tmp_path: Path) -> None:
    record, text = run(python, "startup.py", tmp_path)
    check_origin(record, "startup.py")
    rows = {row["name"]: row for row in record["rows"]}
    assert {"recursivemix --help", "recursivemix fit --help", "import torch", "import its names"} <= set(
        rows
    )
    for name, row in rows.items():
        assert len(row["samples_s"]) == len(row["samples_cpu_s"]) == record["n"] == 1
        assert row["median_s"] == pytest.approx(row["samples_s"][0])
        assert row["ratio_to_torch"] == pytest.approx(row["median_s"] / rows["import torch"]["median_s"])
        assert name in text
    assert rows["import torch"]["ratio_to_torch"] == 1
    for goal in record["goals"]:
        assert goal["value"] == rows[goal["name"]][goal["value_of"]]
        assert goal["reached"] == (goal["value"] <= goal["at_most"])


TRAINING_ROWS = {
    "equal": ["trainer, no mixing", "trainer, RecursiveMix", "bare loop"],
    "defaults": ["recursivemix", "timm", "torchvision"],
    "data": ["recursivemix", "PIL loader"],
}


def test_average_precision(python: str, tmp_path: Path) -> None:
    record, text = run(python, "average_precision.py", tmp_path)
    check_origin(record, "average_precision.py")
    assert record["data"] == {"images": 10, "classes": 3}
    ours, theirs = (median(record["seconds"][name]) for name in ("ours", "torchmetrics"))
    assert record["torchmetrics_times_ours"] == round(theirs / ours, 3)
    assert record["largest_difference"] < 1e-4  # in percent
    assert "times as long" in text


def test_training(python: str, tmp_path: Path, image_root: Path) -> None:
    record, text = run(python, "training.py", tmp_path, "--data", str(image_root))
    check_origin(record, "training.py")
    assert record["n"] == 2
    assert record["settings"]["images"] == 36
    assert record["settings"]["image_size"] == 16
    for comparison, names in TRAINING_ROWS.items():
        rows = {row["name"]: row for row in record["rows"] if row["comparison"] == comparison}
        assert list(rows) == names
        ours = rows[names[0]]["samples"]
        for row in rows.values():
            assert len(row["samples"]) == record["n"]
            assert min(row["samples"]) > 0
            assert row["images_per_second"] == pytest.approx(median(row["samples"]))
            paired = [a / b for a, b in zip(ours, row["samples"], strict=True)]
            assert row["ours_to_this"] == pytest.approx(median(paired))
            assert row["name"] in text
        assert {row["precision"] for row in rows.values()} <= {"bf16-mixed", "32-true", None}
    equal = {row["precision"] for row in record["rows"] if row["comparison"] == "equal"}
    assert equal == {"bf16-mixed" if has_bf16("cpu") else "32-true"}

    ratios = {(row["comparison"], row["name"]): row["ours_to_this"] for row in record["rows"]}
    goals = {(goal["comparison"], goal["against"]): goal for goal in record["goals"]}
    assert {key: goal["at_least"] for key, goal in goals.items()} == {
        ("equal", "bare loop"): 1.0,
        ("defaults", "timm"): 2.5,
        ("defaults", "torchvision"): 2.5,
        ("data", "PIL loader"): 15.0,
    }
    for key, goal in goals.items():
        assert goal["ratio"] == ratios[key]
        assert goal["reached"] == (goal["ratio"] >= goal["at_least"])


def test_training_makes_its_own_images(python: str, tmp_path: Path) -> None:
    record, text = run(python, "training.py", tmp_path, "--only", "data")
    assert record["settings"]["images"] == 80
    assert record["settings"]["image_size"] == 32
    assert [row["name"] for row in record["rows"]] == TRAINING_ROWS["data"]
    assert [goal["comparison"] for goal in record["goals"]] == ["data"]
    assert "bare loop" not in text


def test_training_of_large_images(python: str, tmp_path: Path) -> None:
    record, text = run(python, "training.py", tmp_path, "--large")
    check_origin(record, "training.py")
    assert record["settings"]["image_size"] == 224
    assert [row["name"] for row in record["rows"]] == TRAINING_ROWS["defaults"]
    assert all(row["comparison"] == "defaults" for row in record["rows"])
    (goal,) = record["goals"]
    assert (goal["against"], goal["at_least"]) == ("timm", 1.5)
    assert goal["ratio"] == record["rows"][1]["ours_to_this"]
    assert "mobilenetv3_small_050" in text


def gpu_sh(python: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """benchmarks/gpu.sh with results and run in a folder."""
    own = {"RESULTS": str(folder / "results"), "RUN": str(folder / "run"), "PYTHON": python}
    own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the fork has imported one of them
    known = {name: value for name, value in os.environ.items() if not name.startswith("CIFAR100")}
    return subprocess.run(
        [str(ROOT / "benchmarks" / "gpu.sh")],
        capture_output=True,
        text=True,
        cwd=folder,
        env=known | own | variables,
        timeout=600,
        check=False,
    )


def test_gpu_sh_in_rehearsal(python: str, tmp_path: Path, image_root: Path, tables: dict[str, Any]) -> None:
    images = image_root.rename(tmp_path / "cifar100")
    (images / "val").rename(images / "test")
    rehearsal = {"GPU_SH_DEVICE": "cpu", "QUICK": "1", "CIFAR100": str(images), "COMMIT": "a copy's"}
    done = gpu_sh(python, tmp_path, **rehearsal)
    assert done.returncode == 0, done.stdout + done.stderr
    records = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "results" / "gpu").iterdir()}
    assert sorted(records) == ["cifar100-resnet18", "detection", "step", "throughput"]
    assert all(record["commit"] for record in records.values())
    variants = ["plain", "recursivemix", "recursivemix inplace", "cutmix"]
    assert [row["name"] for row in records["step"]["rows"]] == variants
    speeds = records["detection"]["results"]
    assert sorted(speeds) == ["inference", "training"]
    assert all(set(found) == {"atss", "gfl", "retinanet"} for found in speeds.values())
    throughput = records["throughput"]
    assert [(row["mixer"], row["compile"]) for row in throughput["rows"]] == [
        ("none", False),
        ("recursivemix", False),
    ]
    assert all(len(row["samples"]) == throughput["n"] == 1 for row in throughput["rows"])
    recipe = records["cifar100-resnet18"]
    assert recipe["finished"]
    assert recipe["config"]["model"] == "resnet18"
    assert recipe["score_last"] == recipe["epochs"][-1]["acc1"]

    again = gpu_sh(python, tmp_path, PARTS="recipe", **rehearsal)
    assert again.returncode == 0, again.stderr
    assert "is finished already" in again.stdout

    tables["gpu_table"].__globals__["RESULTS"] = tmp_path / "results"
    assert "recipe cifar100-resnet18, test accuracy after 1 epochs | " in tables["gpu_table"]()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_sh_says_at_once_that_there_is_no_gpu(python: str, tmp_path: Path) -> None:
    done = gpu_sh(python, tmp_path, CIFAR100=str(tmp_path))
    assert done.returncode == 2
    assert "sees no GPU" in done.stderr
    assert not (tmp_path / "results").exists()


def test_gpu_sh_says_that_there_are_no_images(python: str, tmp_path: Path) -> None:
    done = gpu_sh(python, tmp_path, GPU_SH_DEVICE="cpu", QUICK="1")
    assert done.returncode == 2
    assert "CIFAR100_ZIPS" in done.stderr
    missing = gpu_sh(python, tmp_path, GPU_SH_DEVICE="cpu", QUICK="1", CIFAR100_ZIPS=str(tmp_path))
    assert missing.returncode == 2
    assert "cifar100-part1.zip" in missing.stderr


def test_coverage(python: str, tmp_path: Path) -> None:
    record, text = run(python, "coverage.py", tmp_path)
    check_origin(record, "coverage.py")
    assert record["n"] == 20
    kinds = {"reported", "t over seeds", "t, Satterthwaite", "hierarchical bootstrap"}
    for seeds, expected in ((1, {"reported"}), (3, kinds)):
        rows = [row for row in record["differences"] if row["seeds"] == seeds]
        assert {row["interval"] for row in rows} == expected
        for row in rows:
            assert 0.5 <= row["coverage"] <= 1
            assert row["mean_width"] > 0
            assert f"{row['interval']}: {100 * row['coverage']:.1f} %" in text
    log, plain = (next(r for r in record["levels"] if r["interval"] == name) for name in ("log t", "t"))
    assert log["below_zero"] == 0
    assert plain["seeds"] == log["seeds"] == 3
