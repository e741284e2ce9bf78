"""Folders of comparisons with made-up numbers in every part of their records."""

import base64
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from recursivemix.compare.collect import collect, config_values
from recursivemix.compare.compare import COMPARISON, SETTINGS
from recursivemix.compare.grid import jobs_of, labelled_runs
from recursivemix.compare.settings import BackboneSettings, CompareSettings

CLASSES = ["cat", '<b>dog</b> & "co"', "</script><script>window.broken = 1</script>" + "_and_more" * 8]
"""Names as data may have them."""
LONG = "a-label-of-my-own-that-is-rather-long"
METHODS = {"none": {}, "cutmix": {}, LONG: {"mixer": "recursivemix"}}
WHERE = {
    "command": ["recursivemix", "compare", "--data", "my <photos>"],
    "date": "2026-01-01", "commit": None,
    "versions": {"python": "3.11"}, "hardware": {"processor": "one", "cores": 2, "gpu": None},
}  # fmt: skip
IMAGES = 90


def curve(first: float, count: int) -> list[float]:
    return [first - 4 * i for i in range(count)]


def evaluation(top1: float, per_image: bool = False) -> dict:
    """As ``evaluation.json``; with ``per_image`` the first images are classified correctly."""
    kinds = ("noise", "blur", "contrast", "brightness", "jpeg", "pixelate")
    confidence = [None] * 5 + [0.35 + i / 15 for i in range(10)]
    found = {
        "kind": "evaluation", "images": IMAGES, "classes": CLASSES, "subset": 60,
        "accuracy": {"top1": top1, "top5": None, "per_class": [top1, top1 - 5, None]},
        "nll": 2 - top1 / 100, "brier": 0.5, "ece": 5.0,
        "reliability": {"edges": [i / 15 for i in range(16)],
                        "accuracy": [None] * 5 + [30.0 + 7 * i for i in range(10)],
                        "confidence": confidence, "count": [0] * 5 + [9] * 10},
        "corruptions": {kind: curve(top1 - i, 5) for i, kind in enumerate(kinds)},
        "corruption_mean": top1 - 10,
        "occlusion": {"share": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], "top1": curve(top1, 6), "images": 60},
        "occlusion_mean": top1 - 12,
        "scale": {"side": [1.0, 0.75, 0.5, 0.35, 0.25], "top1": curve(top1, 5), "images": 60},
        "scale_mean": top1 - 11,
        "multiple": {"top4": 60.0 + top1 / 10, "all_four": 20.0, "images": 15},
        "localisation": {"pointing": 40.0, "energy": 30.0, "maps": 60}, "seconds": 1.0,
    }  # fmt: skip
    if per_image:
        correct = np.arange(IMAGES) < round(IMAGES * top1 / 100)
        found["predictions"] = {"correct": base64.b64encode(np.packbits(correct).tobytes()).decode()}
    return found


def record(top1: float, epochs: int) -> dict:
    """As ``record.json`` of a classifier."""
    rows = [
        {"epoch": e + 1, "loss_label": 2 - e / 20, "val_loss": 1.8 - e / 20, "acc1": top1 - epochs + 1 + e}
        for e in range(epochs)
    ]
    return {
        **WHERE, "commit": "0123abc", "score": "acc1", "score_last": top1, "score_best": top1 + 1,
        "best_epoch": epochs, "epochs": rows, "metrics": {"acc1": top1, "val_loss": 1.8}, "per_class": {},
        "seconds": 60 - top1 / 2, "images_per_second": 900 + top1, "peak_memory_bytes": 2**29,
        "parameters": {"training": 80_000, "inference": 78_000}, "config": {"model": "resnet20"},
        "data": {"train_images": 500, "evaluation_images": IMAGES, "evaluation_split": "test",
                 "classes": CLASSES, "image_size": 32},
    }  # fmt: skip


def older(record: dict) -> dict:
    """A record of a classifier as it was written before all tasks shared one form."""
    kept = {k: v for k, v in record.items() if k not in ("score", "metrics", "per_class")}
    last, best = kept.pop("score_last"), kept.pop("score_best")
    data = {**kept["data"], "classes": len(CLASSES)}
    return kept | {"acc1_last": last, "acc1_best": best, "data": data}


def write_runs(
    folder: Path,
    settings: CompareSettings,
    accuracy,
    finished: int | None = None,
    per_image: bool = False,
    convert=lambda record: record,
) -> None:
    """The records of the runs of a classification; ``accuracy`` gives that of a label and a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(yaml.safe_dump(config_values(settings)))
    for run in labelled_runs(settings)[:finished]:
        own = folder / run.folder
        own.mkdir(parents=True)
        top1 = accuracy(run.label, run.seed)
        (own / "record.json").write_text(json.dumps(convert(record(top1, 6))))
        (own / "evaluation.json").write_text(json.dumps(evaluation(top1, per_image)))


def write_comparison(folder: Path, seeds: int = 3, finished: int | None = None) -> Path:
    """Records and pictures; only ``finished`` runs of them, all by default."""
    settings = CompareSettings(mixers="none,cutmix", methods=METHODS, seeds=seeds, epochs=6)
    places = {run: i for i, run in enumerate((r.label, r.seed) for r in labelled_runs(settings))}

    def accuracy(label, seed):
        return 60 + 3 * settings.labels.index(label) + 0.7 * (places[label, seed] % 4)

    write_runs(folder, settings, accuracy, finished)
    (folder / COMPARISON).write_text(json.dumps(collect(settings, folder, WHERE)))
    pictures = folder / "pictures"
    pictures.mkdir()
    pixels = (255 * torch.rand(16, 8 * 17, 3, generator=torch.Generator().manual_seed(0))).byte()
    for label in ("images", *settings.labels):
        for kind in ("gallery", "cams"):
            Image.fromarray(pixels.numpy()).save(pictures / f"{kind}-{label}.png")
    captions = {
        label: {"captions": [f"{CLASSES[i % 3]} 1.00" for i in range(8)]} for label in settings.labels
    }
    (pictures / "gallery.json").write_text(json.dumps(captions))
    names = [CLASSES[i % 3] for i in range(8)]
    methods = {label: [f"{name}, 83 %" for name in names] for label in settings.labels}
    (pictures / "cams.json").write_text(json.dumps({"images": names, "methods": methods}))
    return folder


def detection_record(score: float, seed: int) -> dict:
    """As ``record.json`` of a detector."""
    return {
        **WHERE, "seed": seed, "score": "ap", "score_last": score, "score_best": score, "best_epoch": 3,
        "metrics": {"ap": score, "ap50": score + 20, "apl": None},
        "per_class": {name: score + i for i, name in enumerate(CLASSES)},
        "epochs": [{"epoch": e, "loss": 2 / e, "ap": score - 6 + 2 * e} for e in (1, 2, 3)],
        "seconds": 9.0, "images_per_second": 5.0, "peak_memory_bytes": None,
        "parameters": {"training": 10, "inference": 10}, "mixer_stats": {}, "backbone": {},
        "data": {"name": "my <cells>", "train_images": 60, "evaluation_images": 20,
                 "evaluation_split": "val", "classes": CLASSES},
    }  # fmt: skip


def write_backbones(folder: Path, seeds: int = 3) -> Path:
    """A finished comparison of backbones, but for its page."""
    settings = BackboneSettings(
        mixers="none,cutmix",
        methods={LONG: {"backbone": "none", "mixer": "recursivemix"}},
        seeds=seeds,
        out=folder,
    )
    before = {
        "commit": None, "score": "acc1", "score_last": 60.0, "seconds": 1.0, "epochs": [{}] * 3,
        "config": {"model": "resnet18", "data": "my <photos>"},
        "data": {"train_images": 90, "image_size": 32},
    }  # fmt: skip
    pixels = (255 * torch.rand(80, 240, 3, generator=torch.Generator().manual_seed(0))).byte()
    (folder / "pictures").mkdir(parents=True)
    for run in (run for job in jobs_of(settings) for run in job.runs):
        own = folder / run.folder
        own.mkdir(parents=True)
        if run.label is None:
            (own / "record.json").write_text(json.dumps(before))
            continue
        score = 40.0 + 2 * settings.labels.index(run.label) + 0.6 * (run.seed % 2)
        (own / "record.json").write_text(json.dumps(detection_record(score, run.seed)))
        Image.fromarray(pixels.numpy()).save(folder / "pictures" / f"predictions-{run.label}.jpg")
    (folder / COMPARISON).write_text(json.dumps(collect(settings, folder, WHERE)))
    return folder
