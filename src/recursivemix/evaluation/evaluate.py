"""Run the probes on a checkpoint. Torch and the probes are imported when they run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recursivemix.data.names import Source
from recursivemix.training.settings import Device, Precision


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path | None = None,
    batch_size: int = 256,
    device: Device = "auto",
    workers: int = 2,
    dataset: Source | None = None,
    images: int = 2000,
    precision: Precision = "auto",
    seed: int = 0,
    probes: str = "accuracy,calibration",
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint on the split that its training was evaluated on.

    Args:
        checkpoint: File written by recursivemix fit.
        data: Folder it was trained on, or another with the same classes (default: the digits).
        batch_size: Images per forward pass.
        device: cpu, gpu, or auto.
        workers: Number of processes that read images; the digits need none.
        dataset: Kind of --data, as in recursivemix fit (default: as in training).
        images: Size of the subset, spread over the split, that is corrupted, covered, shrunk and combined.
        precision: bf16, 16, 32, or auto as in training; activation maps are always float32.
        seed: Seed of noise, positions and choices.
        probes: Comma-separated names of probes, or all; accuracy always runs. The
            default costs one forward pass over the split.
        out: File to write the record to, as JSON.

    Returns:
        Plain values; accuracies, shares and calibration error in percent. None where a probe does not
        apply, such as top-5 with five classes.

    Raises:
        ValueError: a checkpoint, data or a setting that cannot be used.
    """
    for name, value in (("batch-size", batch_size), ("images", images)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    from recursivemix.training.atomic_write import write_json
    from recursivemix.training.devices import check_device
    from recursivemix.training.environment import environment

    from .checkpoint import open_measured
    from .probes import select_probes
    from .subject import Predictor, Subject

    check_device(device)
    selected = select_probes(probes)
    start = time.perf_counter()
    trained, opened = open_measured(checkpoint, data, dataset)
    predictor = Predictor(trained.network, opened, batch_size, device, precision)
    begun = time.perf_counter()
    logits, labels = predictor.split_logits(opened, 0 if data is None else workers)
    subject = Subject(predictor, opened, logits, labels, min(images, len(opened.evaluation)), seed)
    result: dict[str, Any] = {
        "kind": "evaluation",
        "checkpoint": str(checkpoint),
        "images": len(labels),
        "subset": subject.subset_size,
        "classes": list(opened.classes),
        "seed": seed,
        "probes": [probe.name for probe in selected],
    }
    seconds = {}
    for probe in selected:
        result |= probe.run(subject)
        ended = time.perf_counter()
        seconds[probe.name] = round(ended - begun, 2)  # the first one's includes the predictions
        begun = ended
    result |= {"probe_seconds": seconds, "seconds": round(time.perf_counter() - start, 2)}
    if out is not None:
        try:
            write_json(out, environment(gpu=device != "cpu") | result)
        except OSError as error:
            raise ValueError(f"cannot write {out} (--out): {error}") from error
    return result


def evaluation_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and value of every summary number in an evaluation, for a printed table."""
    from .probes import PROBES

    rows = []
    for metric in (metric for probe in PROBES for metric in probe.metrics):
        value = metric.read(record)
        if value is not None:
            rows.append((metric.title, f"{value:.2f} %" if metric.unit == "%" else f"{value:.4f}"))
    return rows
