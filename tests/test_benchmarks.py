"""Both benchmarks run, as a user starts them, and their records hold what a reader relies on.

Tiny sizes and no assertion on a time: what is fast is said by the committed records.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("timm")


def run(script: str, folder: Path) -> tuple[dict[str, Any], str]:
    """The record and the printed text of a quick run."""
    out = folder / "new" / "record.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / script),
        "--quick",
        "--threads",
        "1",
        "--out",
        str(out),
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


def test_mixing(tmp_path: Path) -> None:
    record, text = run("mixing.py", tmp_path)
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


def test_step(tmp_path: Path) -> None:
    record, text = run("step.py", tmp_path)
    check_origin(record, "step.py")
    assert record["n"] == 1
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["plain", "recursivemix", "cutmix"]
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
    # The peak holds at least the parameters with their gradients and momentum.
    assert rows["plain"]["peak_bytes"] > 3 * 11_000_000 * 4
    # Of mixing it sees at least the history that is alive during the step.
    assert rows["recursivemix"]["extra_peak_bytes"] >= memory["history_images"]
