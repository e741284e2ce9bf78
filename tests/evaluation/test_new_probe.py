"""A new probe costs two files: its own, and the registry. Everything else follows from the probe."""

import filecmp
import json
import os
import shutil
import subprocess
from pathlib import Path

import recursivemix

SOURCE = Path(recursivemix.__file__).parent
PROBE = '''"""Accuracy on mirrored images."""

from __future__ import annotations

from typing import Any

from .probe import Curve, Metric, Point, Probe, Record
from .subject import Subject


def run(subject: Subject) -> dict[str, Any]:
    """Measure the accuracy on mirrored images."""
    images, labels = subject.subset.images, subject.subset.labels
    values = [subject.predictor.accuracy(x, labels) for x in (images, images.flip(-1))]
    return {"mirror": values, "mirror_worst": min(values)}


def curve(record: Record) -> list[Point]:
    """Return the accuracy on the images as they are, and mirrored."""
    return [Point(name, name, y) for name, y in zip(("plain", "mirrored"), record.get("mirror", ()))]


PROBE = Probe(
    name="mirror",
    measures="accuracy on mirrored images",
    cost="two forward passes over the subset",
    run=run,
    metrics=(Metric("mirror_worst", "Accuracy on mirrored images", ("mirror_worst",)),),
    curves=(Curve("Mirrored images", "", "Images as they are, and mirrored.", curve),),
    section="Robustness",
)
'''
USE = """
import json, sys
from pathlib import Path

from recursivemix.compare.metrics import metrics_of
from recursivemix.evaluation.evaluate import evaluate_checkpoint, evaluation_rows
from recursivemix.report.probes import probe_sections

record = evaluate_checkpoint(Path(sys.argv[1]), images=30, precision="32", probes="mirror")
methods = [{"label": "none", "estimates": {}, "runs": [{"evaluation": record}]}]
sections = probe_sections({"methods": methods})
plots = [plot for section in sections for plot in section.plots]
print(json.dumps({
    "record": record, "rows": evaluation_rows(record), "metrics": metrics_of({}, False),
    "sections": [section.title for section in sections],
    "plots": [plot.title for plot in plots], "tables": [plot.table.rows for plot in plots],
}))
"""


def changed_files(before: Path, after: Path) -> list[str]:
    """Files of ``after`` that ``before`` has not, or that differ."""
    files = [file.relative_to(after) for file in after.rglob("*.*") if "__pycache__" not in file.parts]
    same = [(before / file).is_file() and filecmp.cmp(before / file, after / file, False) for file in files]
    return sorted(str(file) for file, equal in zip(files, same, strict=True) if not equal)


def test_a_new_probe_costs_two_files(python, save_trained, tmp_path):
    copy = tmp_path / "recursivemix"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "evaluation" / "mirror.py").write_text(PROBE)
    registry = copy / "evaluation" / "probes.py"
    text = registry.read_text()
    assert text.count("multiple, ") == text.count("    multiple.PROBE,\n") == 1
    text = text.replace("multiple, ", "mirror, multiple, ")
    registry.write_text(text.replace("    multiple.PROBE,\n", "    multiple.PROBE,\n    mirror.PROBE,\n"))
    assert changed_files(SOURCE, copy) == ["evaluation/mirror.py", "evaluation/probes.py"]

    data = {"dataset": "digits", "val_split": None, "seed": 0, "mean": [0.5] * 3, "std": [0.25] * 3}
    checkpoint = save_trained(classes=[str(k) for k in range(10)], image_size=32, data=data)
    done = subprocess.run(
        [python, "-W", "ignore", "-c", USE, str(checkpoint)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    plain, mirrored = shown["record"]["mirror"]
    assert shown["record"]["probes"] == ["accuracy", "mirror"]
    assert set(shown["record"]["probe_seconds"]) == {"accuracy", "mirror"}
    assert ["Accuracy on mirrored images", f"{min(plain, mirrored):.2f} %"] in shown["rows"]
    assert shown["metrics"]["mirror_worst"]["name"] == "Accuracy on mirrored images"
    assert shown["sections"] == ["Robustness"]
    assert shown["plots"] == ["Mirrored images"]
    assert shown["tables"] == [[["none", f"{plain:.1f}", f"{mirrored:.1f}"]]]
