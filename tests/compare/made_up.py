"""Folders of comparisons with made-up numbers in every part of their records."""

import json
from pathlib import Path

import torch
from PIL import Image

from recursivemix.compare import transfer_compare as transfer
from recursivemix.compare.collect import collect
from recursivemix.compare.compare import COMPARISON
from recursivemix.compare.grid import CompareConfig, jobs_of

CLASSES = ["cat", '<b>dog</b> & "co"', "</script><script>window.broken = 1</script>"]
"""Names as data may have them."""
METHODS = {"none": {}, "cutmix": {}, "a-label-of-my-own-that-is-rather-long": {"mixer": "recursivemix"}}


def curve(first: float, count: int) -> list[float]:
    return [first - 4 * i for i in range(count)]


def evaluation(top1: float) -> dict:
    kinds = ("noise", "blur", "contrast", "brightness", "jpeg", "pixelate")
    confidence = [None] * 5 + [0.35 + i / 15 for i in range(10)]
    return {
        "kind": "evaluation", "images": 90, "classes": CLASSES,
        "accuracy": {"top1": top1, "top5": None, "per_class": [top1, top1 - 5, None]},
        "nll": 2 - top1 / 100, "brier": 0.5, "ece": 5.0,
        "reliability": {"edges": [i / 15 for i in range(16)],
                        "accuracy": [None] * 5 + [30.0 + 7 * i for i in range(10)],
                        "confidence": confidence, "count": [0] * 5 + [9] * 10},
        "corruptions": {kind: curve(top1 - i, 5) for i, kind in enumerate(kinds)},
        "corruption_mean": top1 - 10, "corruption_images": 60,
        "occlusion": {"share": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], "top1": curve(top1, 6), "images": 60},
        "occlusion_mean": top1 - 12,
        "scale": {"side": [1.0, 0.75, 0.5, 0.35, 0.25], "top1": curve(top1, 5), "images": 60},
        "scale_mean": top1 - 11,
        "multiple": {"top4": 60.0 + top1 / 10, "all_four": 20.0, "images": 15},
        "localisation": {"pointing": 40.0, "energy": 30.0, "maps": 60}, "seconds": 1.0,
    }  # fmt: skip


def record(top1: float, epochs: int) -> dict:
    rows = [
        {"epoch": e + 1, "loss_label": 2 - e / 20, "val_loss": 1.8 - e / 20, "acc1": top1 - epochs + 1 + e}
        for e in range(epochs)
    ]
    return {
        "commit": "0123abc", "acc1_last": top1, "acc1_best": top1 + 1, "best_epoch": epochs, "epochs": rows,
        "seconds": 60 - top1 / 2, "images_per_second": 900 + top1, "peak_memory_bytes": 2**29,
        "parameters": {"training": 80_000, "inference": 78_000},
        "data": {"train_images": 500, "evaluation_images": 90, "evaluation_split": "test",
                 "image_size": 32},
    }  # fmt: skip


def write_comparison(folder: Path, seeds: int = 3, finished: int | None = None) -> Path:
    """The records and pictures; only so many runs are ``finished``, all by default."""
    config = CompareConfig(mixers="none,cutmix", methods=METHODS, seeds=seeds, epochs=6)
    for i, job in enumerate(jobs_of(config)[:finished]):
        own = folder / "runs" / job.name
        own.mkdir(parents=True)
        top1 = 60 + 3 * config.labels.index(job.label) + 0.7 * (i % 4)
        (own / "record.json").write_text(json.dumps(record(top1, 6)))
        (own / "evaluation.json").write_text(json.dumps(evaluation(top1)))
    where = {
        "command": ["recursivemix", "compare", "--data", "my <photos>"],
        "date": "2026-01-01", "commit": None,
        "versions": {"python": "3.11"}, "hardware": {"processor": "one", "cores": 2, "gpu": None},
    }  # fmt: skip
    comparison = collect(config, folder, where)
    (folder / COMPARISON).write_text(json.dumps(comparison))
    pictures = folder / "pictures"
    pictures.mkdir()
    pixels = (255 * torch.rand(16, 8 * 17, 3, generator=torch.Generator().manual_seed(0))).byte()
    for label in ("images", *config.labels):
        for kind in ("gallery", "cams"):
            Image.fromarray(pixels.numpy()).save(pictures / f"{kind}-{label}.png")
    captions = {
        label: {"captions": [f"{CLASSES[i % 3]} 1.00" for i in range(8)]} for label in config.labels
    }
    (pictures / "gallery.json").write_text(json.dumps(captions))
    names = [CLASSES[i % 3] for i in range(8)]
    methods = {label: [f"{name}, 83 %" for name in names] for label in config.labels}
    (pictures / "cams.json").write_text(json.dumps({"images": names, "methods": methods}))
    return folder


def write_transfer(folder: Path, seeds: int = 3) -> Path:
    """A finished comparison of backbones, but for its page."""
    config = transfer.TransferCompareConfig(
        out=folder,
        mixers="none,cutmix",
        methods={"a-label-of-my-own-that-is-rather-long": {"backbone": "none", "mixer": "recursivemix"}},
        seeds=seeds,
    )
    before = {
        "commit": None, "acc1_last": 60.0, "seconds": 1.0, "epochs": [{}] * 3,
        "config": {"model": "resnet18", "data": "my <photos>"},
        "data": {"train_images": 90, "image_size": 32},
    }  # fmt: skip
    pixels = (255 * torch.rand(80, 240, 3, generator=torch.Generator().manual_seed(0))).byte()
    for job in transfer.jobs_of(config):
        backbone = folder / "backbones" / job.name
        backbone.mkdir(parents=True)
        (backbone / "record.json").write_text(json.dumps(before))
        for label in job.labels:
            own = transfer.run_of(config, label, job.seed)
            own.mkdir(parents=True)
            score = 40.0 + 2 * config.labels.index(label) + 0.6 * (job.seed % 2)
            record = {
                "seed": job.seed, "commit": None, "score": "ap", "score_last": score, "score_best": score,
                "best_epoch": 3, "metrics": {"ap": score, "ap50": score + 20, "apl": None},
                "per_class": {name: score + i for i, name in enumerate(CLASSES)},
                "epochs": [{"epoch": e, "loss": 2 / e, "ap": score - 6 + 2 * e} for e in (1, 2, 3)],
                "seconds": 9.0, "images_per_second": 5.0, "mixer_stats": {}, "backbone": {},
                "data": {"name": "my <cells>", "train_images": 60, "evaluation_images": 20,
                         "evaluation_split": "val", "classes": CLASSES},
            }  # fmt: skip
            (own / "record.json").write_text(json.dumps(record))
            Image.fromarray(pixels.numpy()).save(own / "predictions.png")
    where = {
        "command": ["recursivemix", "transfer", "compare"], "date": "2026-01-01", "commit": None,
        "versions": {"python": "3.11"}, "hardware": {"processor": "one", "cores": 2, "gpu": None},
    }  # fmt: skip
    (folder / transfer.COMPARISON).write_text(json.dumps(transfer.collect(config, where)))
    return folder
