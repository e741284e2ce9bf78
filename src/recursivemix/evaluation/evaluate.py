"""Run the probes on a checkpoint. Torch and the probes are imported when they run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recursivemix.data.names import Source
from recursivemix.tasks import METRIC_NAMES
from recursivemix.training.settings import Device, Precision

if TYPE_CHECKING:
    from recursivemix.data.images import ImageData
    from recursivemix.models.trained import TrainedModel

    from .probe import Probe
    from .subject import Subject

DEFAULT_PROBES = "accuracy,calibration"


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    workers: int = 2,
    dataset: Source | None = None,
    images: int = 2000,
    precision: Precision = "auto",
    seed: int = 0,
    probes: str = DEFAULT_PROBES,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint on the split that its training was evaluated on.

    Args:
        checkpoint: File written by recursivemix fit or transfer. Of detection and segmentation the metrics
            of the training are measured.
        data: Folder it was trained on, or another with the same classes (default: the sample data).
        batch_size: Images per forward pass (default: 256; detection, segmentation: as in training).
        device: cpu, gpu, or auto.
        workers: Number of processes that read images; the digits need none.
        dataset: Kind of --data, as in recursivemix fit (default: as in training).
        images: Size of the subset, spread over the split, that is corrupted, covered, shrunk and combined.
        precision: bf16, 16, 32, or auto as in training; activation maps are always float32.
        seed: Seed of noise, positions and choices.
        probes: Comma-separated names of probes, or all; accuracy always runs. The
            default costs one forward pass over the split. Of images with several labels,
            accuracy measures average precision and F1, and no other probe runs.
        out: File to write the record to, as JSON.

    Returns:
        Plain values; accuracies, shares and calibration error in percent. None where a probe does not
        apply, such as top-5 with five classes.

    Raises:
        ValueError: a checkpoint, data or a setting that cannot be used.
    """
    _check_counts({"batch-size": batch_size, "images": images})
    from recursivemix.models.trained import load
    from recursivemix.training.devices import check_device

    from .probes import select_probes

    check_device(device)
    selected = select_probes(probes)
    start = time.perf_counter()
    trained = load(checkpoint)
    if trained.task == "classification":
        from .checkpoint import open_measured

        opened = open_measured(trained, data, dataset)
        how = (batch_size or 256, device, precision)
        measured = _probed(trained, opened, selected, how, 0 if data is None else workers, images, seed)
    else:
        _check_for_images(trained, {"probes": probes, "dataset": dataset, "images": images, "seed": seed})
        from .dense import evaluate_dense

        measured = evaluate_dense(trained, data, batch_size, device, workers, precision)
    return _finished(checkpoint, measured, start, out, device)


def _probed(
    trained: TrainedModel,
    opened: ImageData,
    probes: Sequence[Probe],
    how: tuple[int, Device, Precision],
    workers: int,
    images: int,
    seed: int,
) -> dict[str, Any]:
    """Return what the probes measure of a classifier; ``how`` is the batch size, device and precision."""
    from .subject import Predictor, Subject

    predictor = Predictor(trained.network, opened, *how)
    begun = time.perf_counter()
    logits, labels = predictor.split_logits(opened, workers)
    subject = Subject(predictor, opened, logits, labels, min(images, len(opened.evaluation)), seed)
    return subject.as_dict() | run_probes(probes, subject, begun)


def _check_counts(counts: dict[str, int | None]) -> None:
    """Raise ValueError for an option below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")


def _check_for_images(trained: TrainedModel, options: dict[str, Any]) -> None:
    """Raise ValueError for options that a detector or segmenter does not have."""
    defaults = signature(evaluate_checkpoint).parameters
    changed = ", ".join(f"--{name}" for name, value in options.items() if value != defaults[name].default)
    if changed:
        raise ValueError(
            f"for classification only: {changed}; {trained.path} is of {trained.task}: leave them out"
        )


def _finished(
    checkpoint: Path, measured: dict[str, Any], start: float, out: Path | None, device: Device
) -> dict[str, Any]:
    """Return the evaluation with its origin and seconds; write it, with its environment, to ``out``."""
    from recursivemix.data.atomic_write import write_json
    from recursivemix.training.environment import environment

    evaluation = {"kind": "evaluation", "checkpoint": str(checkpoint)} | measured
    evaluation |= {"seconds": round(time.perf_counter() - start, 2)}
    try:
        if out is not None:
            write_json(out, environment(gpu=device != "cpu") | evaluation)
    except OSError as error:
        raise ValueError(f"cannot write {out} (--out): {error}") from error
    return evaluation


def run_probes(probes: Sequence[Probe], subject: Subject, begun: float) -> dict[str, Any]:
    """Return the names of probes, what they measured, and the seconds of each.

    Args:
        probes: what to run, in order; if images have several labels, only the probes for these run.
        subject: the network and its predictions.
        begun: when the predictions were begun; the seconds of the first probe include them.
    """
    measured: dict[str, Any] = {}
    seconds = {}
    for probe in probes:
        if subject.data.multi_label and not probe.several_labels:
            continue
        measured |= probe.run(subject)
        ended = time.perf_counter()
        seconds[probe.name] = round(ended - begun, 2)
        begun = ended
    return {"probes": list(seconds)} | measured | {"probe_seconds": seconds}


def evaluation_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and value of every summary number in an evaluation, for a printed table."""
    from .probes import PROBES

    if "metrics" in record:  # of a detector or segmenter
        values = record["metrics"].items()
        return [(METRIC_NAMES[name], "-" if value is None else f"{value:.2f} %") for name, value in values]
    rows = []
    for metric in (metric for probe in PROBES for metric in probe.metrics):
        value = metric.read(record)
        if value is not None:
            rows.append((metric.title, f"{value:.2f} %" if metric.unit == "%" else f"{value:.4f}"))
    return rows
